"""The forms of the legacy text endpoint on the wire; the same answers as a chat's, without messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import orjson

from proxy.simulated.answer import Answer
from proxy.simulated.dialects import Dialect
from proxy.simulated.schema import Json
from proxy.simulated.wire import DONE, STREAM_ERROR, Event, Head, Streaming


def _shared(head: Head) -> Json:
    return {"id": head.id, "object": "text_completion", "created": head.created, "model": head.model}


class TextEvents:
    """Writes the events of one streamed text completion."""

    end = DONE
    error = STREAM_ERROR

    def __init__(self, head: Head, streaming: Streaming) -> None:
        self._head = head
        self._streaming = streaming
        self._usage = {"usage": None} if streaming.include_usage else {}

    def of(self, choice: int, answer: Answer) -> Iterator[Event]:
        """Yield the events of one choice."""
        chars = self._streaming.chars
        for start in range(0, len(answer.text), chars):
            end = min(len(answer.text), start + chars)
            yield Event(self._event(choice, answer.text[start:end], None), answer.tokens * end / len(answer.text))
        yield Event(self._event(choice, "", answer.finish), answer.tokens)

    def _event(self, choice: int, text: str, finish: str | None) -> bytes:
        choices = [{"text": text, "index": choice, "logprobs": None, "finish_reason": finish}]
        return b"data: " + orjson.dumps(_shared(self._head) | {"choices": choices} | self._usage) + b"\n\n"

    def usage(self) -> bytes:
        """Return the last event, which has usage and no choices."""
        return b"data: " + orjson.dumps(_shared(self._head) | {"choices": [], "usage": self._streaming.used}) + b"\n\n"


class TextWire:
    """How the text endpoint writes its answers."""

    prefix = "chatcmpl-"

    def completion(self, head: Head, answers: Sequence[Answer], used: Json, dialect: Dialect) -> bytes:  # noqa: ARG002 - all are alike
        """Return the JSON of a whole answer."""
        choices = [{"text": answer.text, "index": i, "logprobs": None, "finish_reason": answer.finish} for i, answer in enumerate(answers)]
        return orjson.dumps(_shared(head) | {"choices": choices, "usage": used})

    def events(self, head: Head, streaming: Streaming) -> TextEvents:
        """Return the writer of a streamed answer."""
        return TextEvents(head, streaming)
