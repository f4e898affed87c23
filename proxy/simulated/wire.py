"""The forms on the wire: OpenAI's JSON of a chat completion, and its server-sent events; knows no timing and no sockets."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.simulated.answer import Answer
from proxy.simulated.dialects import Dialect
from proxy.simulated.schema import Json

DONE = b"data: [DONE]\n\n"
STREAM_ERROR = b'data: {"error":{"message":"The server had an error while writing.","type":"server_error","param":null,"code":null}}\n\n'


@dataclass(frozen=True, slots=True)
class Head:
    """What all parts of one answer share."""

    id: str
    model: str
    created: int
    """Unix time in seconds."""


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event, and how many tokens of the answer have been written with it."""

    data: bytes
    tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class Streaming:
    """How one answer is to be streamed."""

    chars: int
    """Characters a delta."""
    include_usage: bool
    used: Json
    dialect: Dialect


def usage(prompt: int, completion: int, thoughts: int = 0) -> Json:
    """Return OpenAI's usage object."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": thoughts, "audio_tokens": 0},
    }


def _message(head: Head, choice: int, answer: Answer, thoughts_in: str) -> Json:
    calls = _calls(answer)
    message: Json = {"role": "assistant", "content": None if calls or answer.refusal else answer.text, "refusal": answer.refusal}
    if calls:
        message["tool_calls"] = [_call(head, choice, i, answer, text) for i, text in enumerate(calls)]
    return message | ({thoughts_in: answer.thoughts} if thoughts_in and answer.thoughts else {})


def _calls(answer: Answer) -> tuple[str, ...]:
    return () if answer.tool is None else answer.calls or (answer.text,)


def _call(head: Head, choice: int, i: int, answer: Answer, arguments: str) -> Json:
    identity = f"call_{head.id.removeprefix('chatcmpl-')}{choice}{i}"
    return {"id": identity, "type": "function", "function": {"name": answer.tool, "arguments": arguments}}


class ChatEvents:
    """Writes the events of one streamed answer."""

    end = DONE
    error = STREAM_ERROR

    def __init__(self, head: Head, streaming: Streaming) -> None:
        self._streaming = streaming
        shared: Json = {"id": head.id, "object": "chat.completion.chunk", "created": head.created, "model": head.model}
        self._start = b"data: " + orjson.dumps(shared)[:-1]
        # where usage is asked for, OpenAI sends it as null in every chunk but the last
        self._end = b',"usage":null}\n\n' if streaming.include_usage and not streaming.dialect.always_usage else b"}\n\n"
        self._head = head
        self._finish = b""

    def _chunk(self, choice: int, delta: bytes, finish: str | None = None) -> bytes:
        return b'%b,"choices":[%b]%b' % (self._start, _choice(choice, delta, finish), self._end)

    def of(self, choice: int, answer: Answer) -> Iterator[Event]:
        """Yield the events of one choice."""
        calls = _calls(answer)
        first: dict[str, Any] = {"role": "assistant", "content": None if calls else ""}
        yield Event(self._chunk(choice, orjson.dumps(first)))
        yield from self._thoughts(choice, answer)
        if answer.refusal:
            yield Event(self._chunk(choice, orjson.dumps({"refusal": answer.refusal})))
        elif calls:
            yield from self._tool_calls(choice, answer, calls)
        else:
            yield from self._pieces(choice, answer.text, (answer.thought_tokens, answer.tokens), b'{"content":%b}')
        self._finish = _choice(choice, b"{}", answer.finish)
        if not (self._streaming.include_usage and self._streaming.dialect.always_usage):
            yield Event(b'%b,"choices":[%b]%b' % (self._start, self._finish, self._end), answer.tokens)

    def _thoughts(self, choice: int, answer: Answer) -> Iterator[Event]:
        place = self._streaming.dialect.reasoning
        if place and answer.thoughts:
            yield from self._pieces(choice, answer.thoughts, (0, answer.thought_tokens), b'{"' + place.encode() + b'":%b}')

    def _tool_calls(self, choice: int, answer: Answer, calls: Sequence[str]) -> Iterator[Event]:
        """Yield every call with index 0: a single call has no other, and several that share it are a fault of their own."""
        shares = itertools.pairwise([0, *itertools.accumulate(map(len, calls))])
        length = sum(map(len, calls)) or 1
        written = answer.tokens - answer.thought_tokens
        for i, ((start, end), arguments) in enumerate(zip(shares, calls, strict=True)):
            span = (answer.thought_tokens + written * start / length, answer.thought_tokens + written * end / length)
            whole = self._streaming.dialect.whole_arguments
            opened = _call(self._head, choice, i, answer, arguments if whole else "")
            yield Event(self._chunk(choice, orjson.dumps({"tool_calls": [{"index": 0, **opened}]})), span[1] if whole else span[0])
            if not whole:
                yield from self._pieces(choice, arguments, span, b'{"tool_calls":[{"index":0,"function":{"arguments":%b}}]}')

    def _pieces(self, choice: int, text: str, span: tuple[float, float], delta: bytes) -> Iterator[Event]:
        """Yield `text` piece by piece while the answer's tokens go from the span's start to its end."""
        chars = self._streaming.chars
        for start in range(0, len(text), chars):
            piece = text[start : start + chars]
            written = span[0] + (span[1] - span[0]) * min(1.0, (start + chars) / len(text))
            yield Event(self._chunk(choice, delta % orjson.dumps(piece)), written)

    def usage(self) -> bytes:
        """Return the last chunk, which has usage and no choices, or in some dialects the last choice."""
        last = self._finish if self._streaming.dialect.always_usage else b""
        return b'%b,"choices":[%b],"usage":%b}\n\n' % (self._start, last, orjson.dumps(self._streaming.used))


def _choice(choice: int, delta: bytes, finish: str | None) -> bytes:
    return b'{"index":%d,"delta":%b,"finish_reason":%b}' % (choice, delta, orjson.dumps(finish))


class ChatWire:
    """How the chat endpoint writes its answers."""

    prefix = "chatcmpl-"

    def completion(self, head: Head, answers: Sequence[Answer], used: Json, dialect: Dialect) -> bytes:
        """Return the JSON of a whole answer."""
        choices = [
            {"index": i, "message": _message(head, i, answer, dialect.reasoning), "logprobs": None, "finish_reason": answer.finish}
            for i, answer in enumerate(answers)
        ]
        body: Json = {"id": head.id, "object": "chat.completion", "created": head.created, "model": head.model}
        return orjson.dumps(body | {"choices": choices, "usage": used} | dict(dialect.further))

    def events(self, head: Head, streaming: Streaming) -> ChatEvents:
        """Return the writer of a streamed answer."""
        return ChatEvents(head, streaming)
