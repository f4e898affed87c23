"""The forms of the Responses API on the wire: its JSON, and its numbered events; the same answers as a chat's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import orjson

from proxy.simulated.answer import Answer
from proxy.simulated.asked_response import Stored
from proxy.simulated.dialects import Dialect
from proxy.simulated.schema import Json
from proxy.simulated.wire import Event, Head, Streaming

_NO_STREAM_ERROR = "The server had an error while writing."
_SAID_BACK: Json = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
}


class ResponseWire:
    """Writes the answers to one body; `stored` keeps the conversation that the answer ends."""

    prefix = "resp_"

    def __init__(self, body: Json, messages: list[Json], stored: Stored | None) -> None:
        self._echo: Json = {name: usual if body.get(name) is None else body[name] for name, usual in _SAID_BACK.items()}
        self._messages = messages
        self._stored = stored

    def completion(self, head: Head, answers: Sequence[Answer], used: Json, dialect: Dialect) -> bytes:  # noqa: ARG002 - all are alike
        """Return the JSON of a whole response."""
        return orjson.dumps(self.response(head, [item for answer in answers for item in items_of(head, answer)], answers, used))

    def events(self, head: Head, streaming: Streaming) -> ResponseEvents:
        """Return the writer of a streamed response."""
        return ResponseEvents(self, head, streaming)

    def response(self, head: Head, output: Sequence[Json], answers: Sequence[Answer] | None, used: Json | None) -> Json:
        """Return the response with what is written of it; `answers` is None before its end."""
        cut = next((_REASONS[answer.finish] for answer in answers or () if answer.finish in _REASONS), None)
        status = "in_progress" if answers is None else "incomplete" if cut else "completed"
        if self._stored is not None and answers:
            self._stored.keep(head.id, self._messages, answers[0].text)
        begun: Json = {"id": head.id, "object": "response", "created_at": head.created, "status": status, "error": None}
        told = {"incomplete_details": {"reason": cut} if cut else None, "model": head.model, "output": list(output)}
        return begun | told | {"usage": None if used is None else _usage(used)} | self._echo


_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}


def _usage(used: Json) -> Json:
    return {
        "input_tokens": used["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": used["prompt_tokens_details"]["cached_tokens"], "cache_write_tokens": 0},
        "output_tokens": used["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": used["completion_tokens_details"]["reasoning_tokens"]},
        "total_tokens": used["total_tokens"],
    }


def items_of(head: Head, answer: Answer, *, begun: bool = False) -> list[Json]:
    """Return the output items of an answer; `begun`: as they are before anything of them is written."""
    tail = head.id.removeprefix("resp_")
    status = "in_progress" if begun else "incomplete" if answer.finish in _REASONS else "completed"
    if answer.tool is None:
        content = [] if begun else [_part(answer)]
        return [{"id": f"msg_{tail}", "type": "message", "status": status, "role": "assistant", "content": content}]
    return [
        {
            "id": f"fc_{tail}{i}",
            "type": "function_call",
            "status": status,
            "call_id": f"call_{tail}{i}",
            "name": answer.tool,
            "arguments": "" if begun else arguments,
        }
        for i, arguments in enumerate(answer.calls or (answer.text,))
    ]


def _part(answer: Answer) -> Json:
    if answer.refusal:
        return {"type": "refusal", "refusal": answer.refusal}
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": answer.text}


class ResponseEvents:
    """Writes the events of one streamed response."""

    def __init__(self, wire: ResponseWire, head: Head, streaming: Streaming) -> None:
        self._wire = wire
        self._head = head
        self._chars = streaming.chars
        self._used = streaming.used if streaming.include_usage else None
        self._number = 0
        self._output: list[Json] = []
        self._answers: list[Answer] = []
        self._begun = False

    @property
    def end(self) -> bytes:
        """The last event: the whole response."""
        last = self._wire.response(self._head, self._output, self._answers, self._used)
        return self._opening() + self._event({"type": f"response.{last['status']}", "response": last})

    @property
    def error(self) -> bytes:
        """What the stream says when the server fails in its middle."""
        # in place of the event that was to come next
        self._number -= 1
        return self._event({"type": "error", "code": "server_error", "message": _NO_STREAM_ERROR, "param": None})

    def usage(self) -> bytes:
        """Return nothing: the last event tells it."""
        return b""

    def of(self, choice: int, answer: Answer) -> Iterator[Event]:  # noqa: ARG002 - there is one, which may have several items
        """Yield the events of one answer's items."""
        yield Event(self._opening())
        self._answers.append(answer)
        items = items_of(self._head, answer)
        length = sum(len(item.get("arguments") or answer.text) for item in items) or 1
        written = 0
        for item, opened in zip(items, items_of(self._head, answer, begun=True), strict=True):
            place = {"output_index": len(self._output)}
            yield Event(self._event({"type": "response.output_item.added", **place, "item": opened}), answer.tokens * written / length)
            for event, chars in self._of_item(item, place, answer):
                written += chars
                yield Event(event, answer.tokens * written / length)
            self._output.append(item)
            yield Event(self._event({"type": "response.output_item.done", **place, "item": item}), answer.tokens * written / length)

    def _of_item(self, item: Json, place: Json, answer: Answer) -> Iterator[tuple[bytes, int]]:
        """Yield each event with the characters that it brings."""
        at = {"item_id": item["id"], **place}
        if answer.tool is not None:
            yield from self._pieces("response.function_call_arguments", at, item["arguments"])
            yield (
                self._event({"type": "response.function_call_arguments.done", **at, "name": answer.tool, "arguments": item["arguments"]}),
                0,
            )
            return
        at["content_index"] = 0
        part = item["content"][0]
        empty = part | ({"refusal": ""} if answer.refusal else {"text": ""})
        yield self._event({"type": "response.content_part.added", **at, "part": empty}), 0
        if answer.refusal:
            yield self._event({"type": "response.refusal.delta", **at, "delta": answer.refusal}), 0
            yield self._event({"type": "response.refusal.done", **at, "refusal": answer.refusal}), 0
        else:
            at["logprobs"] = []
            yield from self._pieces("response.output_text", at, answer.text)
            yield self._event({"type": "response.output_text.done", **at, "text": answer.text}), 0
            del at["logprobs"]
        yield self._event({"type": "response.content_part.done", **at, "part": part}), 0

    def _pieces(self, name: str, at: Json, text: str) -> Iterator[tuple[bytes, int]]:
        for start in range(0, len(text), self._chars):
            piece = text[start : start + self._chars]
            yield self._event({"type": f"{name}.delta", **at, "delta": piece}), len(piece)

    def _opening(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        begun = self._wire.response(self._head, [], None, None)
        return b"".join(self._event({"type": f"response.{name}", "response": begun}) for name in ("created", "in_progress"))

    def _event(self, told: Json) -> bytes:
        numbered, self._number = told | {"sequence_number": self._number}, self._number + 1
        return b"event: %b\ndata: %b\n\n" % (told["type"].encode(), orjson.dumps(numbered))
