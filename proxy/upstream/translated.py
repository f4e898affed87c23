"""The long way: calls that litellm translates, balances or falls back with; a lone call's answer in OpenAI's own form.

It knows no window and no batch. What a caller wrote reaches litellm only under names that are OpenAI's: litellm takes an
address, a key or a mock from the same arguments, and a caller must set none of these.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol, cast

import orjson

from proxy.errors import BadRequestError, NotFoundError, ProxyError, UpstreamError, UpstreamUnavailableError
from proxy.model import Json, Reply
from proxy.upstream import responses
from proxy.upstream.copied import broken_event
from proxy.upstream.foreign import UNREACHABLE
from proxy.upstream.pieces import told_end, told_model
from proxy.upstream.slots import Slot

_CHAT_FIELDS = (
    "messages temperature top_p n stop max_tokens max_completion_tokens modalities prediction audio presence_penalty "
    "frequency_penalty logit_bias user response_format seed tools tool_choice parallel_tool_calls logprobs top_logprobs functions "
    "function_call reasoning_effort verbosity safety_identifier service_tier store prompt_cache_key web_search_options thinking "
    "top_k"
)
_CHAT = frozenset(_CHAT_FIELDS.split())
_COMPLETION_FIELDS = (
    "prompt best_of echo frequency_penalty logit_bias logprobs max_tokens n presence_penalty stop suffix temperature top_p user"
)
_COMPLETIONS = frozenset(_COMPLETION_FIELDS.split())
_EMBEDDINGS = frozenset({"input", "dimensions", "encoding_format", "user"})
_NOT_FOR_THE_MODEL = frozenset({"model", "metadata", "stream", "stream_options"})
"""Named elsewhere, or bookkeeping between a caller and its provider (litellm keeps its own in `metadata`)."""
_KINDS: dict[str, tuple[str, frozenset[str]]] = {
    "/v1/chat/completions": ("acompletion", _CHAT),
    "/v1/completions": ("atext_completion", _COMPLETIONS),
    "/v1/embeddings": ("aembedding", _EMBEDDINGS),
    responses.PATH: ("aresponses", responses.FIELDS),
}
_INNER_STREAMS = ("_async_generator", "_billing_source", "litellm_custom_stream_wrapper", "response")
"""Where litellm's streams of the Responses API hold the call upstream."""
JSON_HEADERS = (("content-type", "application/json"),)
_EVENT_HEADERS = (("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache"))


def method(path: str) -> str:
    """Return the name of litellm's function for a path; raises NotFoundError where it has none."""
    kind = _KINDS.get(path)
    if kind is None:
        raise NotFoundError(f"The model's provider doesn't serve {path} through this proxy.")
    return kind[0]


def check(path: str, body: Json) -> None:
    """Raise BadRequestError where litellm would stumble over the body's shape."""
    match path:
        case responses.PATH:
            responses.check(body)
            return
        case "/v1/chat/completions":
            messages: Any = body.get("messages")
            good = isinstance(messages, list) and all(map(_is_message, cast("list[Any]", messages)))
            param, form = "messages", "a list of objects with a role"
        case "/v1/embeddings":
            good, param, form = isinstance(body.get("input"), str | list), "input", "a text or a list"
        case _:
            good, param, form = isinstance(body.get("prompt"), str | list), "prompt", "a text or a list"
    if not good:
        raise BadRequestError(f"'{param}' must be {form}.", param=param)


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and isinstance(cast("Json", message).get("role"), str)


def arguments(
    path: str, body: Json, own_extra: Mapping[str, Any] | None = None, *, named_fields: frozenset[str] | None = None
) -> dict[str, Any]:
    """Return a caller's body as litellm's keyword arguments.

    Fields that OpenAI doesn't know, or that aren't among `named_fields`, go to the provider as they are, in `extra_body`; what
    the operator set there wins.
    """
    allowed = _KINDS[path][1] if named_fields is None else named_fields
    named = {name: value for name, value in body.items() if name in allowed}
    extra = {name: value for name, value in body.items() if name not in allowed and name not in _NOT_FOR_THE_MODEL}
    if body.get("stream") is True:
        named["stream"] = True
        if isinstance(options := body.get("stream_options"), dict):
            named["stream_options"] = options
    if extra or own_extra:
        named["extra_body"] = extra | dict(own_extra or {})
    return named


def as_reply(error: ProxyError) -> Reply:
    """Return upstream's own refusal as an answer; raises what is no refusal of upstream's."""
    if not isinstance(error, UpstreamError) or error.upstream_status is None:
        raise error
    headers = list(JSON_HEADERS)
    if error.retry_after_s is not None:
        headers.append(("retry-after", str(max(1, round(error.retry_after_s)))))
    if error.should_retry is not None:
        headers.append(("x-should-retry", "true" if error.should_retry else "false"))
    return Reply(error.http_status, tuple(headers), orjson.dumps(error.body()))


def json_reply(response: Any) -> Reply:
    """Return litellm's answer as OpenAI would have written it."""
    return Reply(200, JSON_HEADERS, _written(_cleaned(response.model_dump(exclude_none=True))))


def _written(answer: Json) -> bytes:
    """Return an answer as JSON, halves of surrogate pairs as escapes: a stream may bring an emoji in two deltas."""
    try:
        return orjson.dumps(answer)
    except orjson.JSONEncodeError:
        return json.dumps(answer).encode()


def _cleaned(answer: Json) -> Json:
    choices: list[Json] = answer.get("choices") or []
    for choice in choices:
        message: Json | None = choice.get("message")
        delta: Json | None = choice.get("delta")
        for part in (message, delta, choice):
            if part is not None:
                part.pop("provider_specific_fields", None)
        if message is not None:
            message.setdefault("content", None)
        choice.setdefault("finish_reason", None)
    answer.pop("provider_specific_fields", None)
    return answer


class Events(Protocol):
    """Writes litellm's stream in one API's form."""

    @property
    def ending(self) -> bytes:
        """What stands after the last event; empty: nothing does."""
        ...

    def ends(self, event: Any, /) -> bool:
        """Tell whether this is what a whole answer ends with."""
        ...

    def of(self, event: Any, /) -> bytes | None:
        """Return what to write of one thing that litellm says; None: nothing."""
        ...

    def broken(self, error: ProxyError, /) -> bytes:
        """Return the event that tells that the stream is not whole."""
        ...


class RenderedStream:
    """litellm's stream as OpenAI's events; `begin` fetches the first, so that a refusal is still a status."""

    def __init__(self, source: Any, slot: Slot, translate: Callable[[Exception], ProxyError], events: Events) -> None:
        self._source = source
        self._slot = slot
        self._translate = translate
        self._events = events
        self._first: bytes | None = None
        self._ended = False

    async def begin(self) -> Reply:
        """Return the answer once its first event is here; raises ProxyError where there is none."""
        try:
            self._first = await self._next()
        except BaseException:
            await self.close()
            raise
        return Reply(200, _EVENT_HEADERS, chunks=self, close=self.close)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if self._ended:
            raise StopAsyncIteration
        try:
            return await self._next()
        except ProxyError as error:
            await self.close()
            return self._events.broken(error)

    async def close(self) -> None:
        """End the call upstream, if it still runs, and give its slot back."""
        self._ended = True
        self._slot.release()
        await close_source(self._source)

    async def _next(self) -> bytes:
        while True:
            try:
                chunk = await anext(self._source)
            except StopAsyncIteration:
                await self.close()
                if not self._events.ending:
                    raise
                return self._events.ending
            except Exception as error:
                # the border: whatever litellm and its providers raise becomes one of our errors
                raise self._translate(error) from error
            if self._events.ends(chunk) and _was_cut(self._source):
                # litellm makes an end up where upstream's stream has none
                raise UpstreamUnavailableError(UNREACHABLE)
            if (event := self._events.of(chunk)) is not None:
                return event


class ChunkEvents:
    """The chunks of chat and text completions."""

    ending = b"data: [DONE]\n\n"

    def __init__(self, *, usage: bool) -> None:
        self._usage = usage
        self._model: str | None = None

    def broken(self, error: ProxyError) -> bytes:
        """Return the event that tells that the stream is not whole."""
        return broken_event(error)

    def ends(self, chunk: Any) -> bool:
        """Tell whether a choice ends with this chunk."""
        return any(choice.finish_reason for choice in getattr(chunk, "choices", None) or ())

    def of(self, chunk: Any) -> bytes | None:
        """Return one chunk; None where it says nothing."""
        told = _cleaned(chunk.model_dump(exclude_none=True))
        self._model = told_model(chunk) or self._model
        if self._model is not None:
            told["model"] = self._model
        if told.get("usage") is not None:
            # usage comes in an event of its own, without choices, and only where it was asked for
            if not self._usage:
                told.pop("usage")
            elif not _says_something(told):
                told["choices"] = []
        if "usage" not in told and not told.get("choices"):
            return None
        return b"data: " + _written(told) + b"\n\n"


def _says_something(told: Json) -> bool:
    return any(choice.get("delta") or choice.get("text") or choice.get("finish_reason") for choice in told.get("choices", ()))


def _was_cut(source: Any) -> bool:
    """Tell whether upstream's stream is known to have stopped without an end."""
    received: Any = getattr(source, "chunks", None)
    if received:
        return told_end(received) is None
    return any(_was_cut(inner) for name in _INNER_STREAMS if (inner := getattr(source, name, None)) is not None)


async def close_source(source: Any) -> None:
    """End a litellm stream and with it the call upstream."""
    close = getattr(source, "aclose", None)
    if close is not None:
        # a stream that breaks while it is closed is closed all the same
        with contextlib.suppress(OSError, RuntimeError):
            await close()
        return
    # those of the Responses API can't be closed themselves
    for name in _INNER_STREAMS:
        if (inner := getattr(source, name, None)) is not None:
            await close_source(inner)
