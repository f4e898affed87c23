"""Reads litellm's answers to a batch, streamed or whole, as Pieces; it knows no lesson."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Any

from proxy.model import LARGEST_COUNT, Piece, Usage

_MOST_CALLS = 64
"""Tool calls of one answer that are told apart; no batch has as many lessons."""
_LONGEST_NAME = 256
_LAST = 4
"""Chunks at a stream's end among which the finish reason and the usage stand."""


def count(value: Any) -> int:
    """Return a token count as a whole number, 0 for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST_COUNT:
        return 0
    return int(value)


def read_usage(usage: Any) -> Usage | None:
    """Return litellm's usage object as counts; None where it says nothing."""
    if usage is None:
        return None
    prompt, completion = count(getattr(usage, "prompt_tokens", 0)), count(getattr(usage, "completion_tokens", 0))
    reasoning = count(getattr(getattr(usage, "completion_tokens_details", None), "reasoning_tokens", 0))
    cached = count(getattr(getattr(usage, "prompt_tokens_details", None), "cached_tokens", 0))
    # a part is never more than its whole, whatever upstream says
    return Usage(prompt, completion, min(reasoning, completion), min(cached, prompt))


def told_model(chunk: Any) -> str | None:
    """Return the model as upstream itself names it: litellm puts the requested name into `model`."""
    hidden: Any = getattr(chunk, "_hidden_params", None) or {}
    return _name(hidden.get("provider_response_model"))


def _model(chunk: Any, before: str | None) -> str | None:
    """Return upstream's name, now or before; litellm's where it never told one."""
    return told_model(chunk) or before or _name(getattr(chunk, "model", None))


def _name(value: Any) -> str | None:
    """Return a name that an answer can carry: half a surrogate pair could not be written down."""
    return value if isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME and value.isprintable() else None


class _ToolCalls:
    """Tells tool calls apart: providers number them, name them by id, or do neither."""

    def __init__(self) -> None:
        self._ids: dict[int, str] = {}

    def place(self, delta: Any) -> tuple[int, bool]:
        """Return which call a delta is of, and whether it begins one.

        Some servers give every delta of one call an id of its own: only one that comes with a name begins a call.
        """
        index = min(count(getattr(delta, "index", 0)), _MOST_CALLS - 1)
        known = self._ids.get(index)
        said = getattr(delta, "id", None) or ""
        named = bool(getattr(getattr(delta, "function", None), "name", None))
        if known is None or (named and said and known and said != known):
            self._ids[index] = said
            return index, True
        return index, False


def _tool_pieces(calls: _ToolCalls, deltas: Iterable[Any] | None, model: str | None) -> Iterator[Piece]:
    for delta in deltas or ():
        text = getattr(getattr(delta, "function", None), "arguments", None) or ""
        call, opens = calls.place(delta)
        if text or opens:
            yield Piece(kind="arguments", text=text, call=call, opens=opens, model=model)


def _refused(message: Any, finish_reason: str | None) -> bool:
    return finish_reason == "content_filter" or bool(getattr(message, "refusal", None))


class PieceStream:
    """The Pieces of litellm's stream, as they come.

    litellm invents a finish reason and counts a usage of its own where upstream told none: neither is passed on.
    A delta that holds nothing for us (reasoning) is an empty Piece: upstream is alive.
    """

    def __init__(self, source: Any, translate: Callable[[Exception], Exception]) -> None:
        self._source = source
        self._translate = translate
        self._calls = _ToolCalls()
        self._ready: deque[Piece] = deque()
        self._model: str | None = None
        self._ended = False

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self

    async def __anext__(self) -> Piece:
        while not self._ready:
            if self._ended:
                raise StopAsyncIteration
            try:
                chunk = await anext(self._source)
            except StopAsyncIteration:
                self._end()
            except Exception as error:
                # the border: whatever litellm and its providers raise becomes one of our errors
                raise self._translate(error) from error
            else:
                self._ready.extend(self._read(chunk))
        return self._ready.popleft()

    def _read(self, chunk: Any) -> Iterator[Piece]:
        self._model = _model(chunk, self._model)
        for choice in getattr(chunk, "choices", None) or ():
            delta = choice.delta
            yield from _tool_pieces(self._calls, getattr(delta, "tool_calls", None), self._model)
            if text := getattr(delta, "content", None):
                yield Piece(text=text, model=self._model)
            if choice.finish_reason is not None or getattr(delta, "refusal", None):
                reason = self._own_finish_reason()
                yield Piece(finish_reason=reason, model=self._model, refused=_refused(delta, reason))
            elif getattr(delta, "reasoning_content", None):
                yield Piece(model=self._model)

    def _end(self) -> None:
        self._ended = True
        usage = next((u for chunk in reversed(self._received()) if (u := getattr(chunk, "usage", None)) is not None), None)
        if usage is not None:
            self._ready.append(Piece(usage=read_usage(usage), model=self._model))

    def _own_finish_reason(self) -> str | None:
        return told_end(self._received())

    def _received(self) -> list[Any]:
        """Return the chunks that litellm really got from upstream."""
        return getattr(self._source, "chunks", None) or []


def told_end(received: Sequence[Any]) -> str | None:
    """Return the finish reason that upstream itself told last, of the chunks that litellm really got."""
    return next((reason for chunk in reversed(received[-_LAST:]) if (reason := _finish(chunk))), None)


def _finish(chunk: Any) -> str | None:
    return next((c.finish_reason for c in getattr(chunk, "choices", None) or () if c.finish_reason), None)


def whole(response: Any) -> Iterator[Piece]:
    """Yield the Pieces of an answer that came at once."""
    calls = _ToolCalls()
    reason: str | None = None
    refused = False
    model = _model(response, None)
    for choice in response.choices[:1]:
        message = choice.message
        for place, call in enumerate(getattr(message, "tool_calls", None) or ()):
            call.index = place
            yield from _tool_pieces(calls, [call], model)
        if text := getattr(message, "content", None):
            yield Piece(text=text, model=model)
        reason = choice.finish_reason
        refused = _refused(message, reason)
    yield Piece(finish_reason=reason, usage=read_usage(getattr(response, "usage", None)), model=model, refused=refused)
