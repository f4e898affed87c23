"""A stream of upstream's, copied chunk by chunk: nothing is held back, and an end that is none is told as one."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import aiohttp
import orjson

from proxy.errors import ProxyError, UpstreamTimeoutError, UpstreamUnavailableError
from proxy.model import Json
from proxy.upstream.foreign import TIMED_OUT, UNREACHABLE
from proxy.upstream.slots import Slot

BREAKS = (aiohttp.ClientError, TimeoutError, OSError)
"""What aiohttp raises where the network or the other side fails."""
_TAIL = 4
"""Chunks at a stream's end among which a regular ending of chat and text completions stands."""
_LONGEST_MARK = 64
_NUMBER = re.compile(rb'"sequence_number"\s*:\s*(\d{1,18})')


@dataclass(frozen=True, slots=True)
class Ending:
    """How the streams of one API end; what lacks it was cut off."""

    marks: tuple[bytes, ...]
    """Any of these; none of them can stand in a string, whose quotes would be escaped."""
    anywhere: bool = False
    """The last event may be long, with its mark at its head: every chunk is looked into."""


ENDINGS: Mapping[str, Ending] = MappingProxyType(
    {
        "/v1/chat/completions": (_OF_COMPLETIONS := Ending((b"[DONE]", b'"finish_reason":"', b'"finish_reason": "', b'"error"'))),
        "/v1/completions": _OF_COMPLETIONS,
        "/v1/responses": Ending(
            (b'"response.completed"', b'"response.incomplete"', b'"response.failed"', b'"type":"error"', b'"type": "error"', b'"error":{'),
            anywhere=True,
        ),
    }
)
"""By path; of other paths it is not known."""


def no_answer(error: BaseException) -> UpstreamUnavailableError:
    """Return our error for one of `BREAKS`."""
    return UpstreamTimeoutError(TIMED_OUT) if isinstance(error, TimeoutError) else UpstreamUnavailableError(UNREACHABLE)


def broken_response_event(error: ProxyError, number: int) -> bytes:
    """Return the same for a stream of the Responses API: its own `error` event, with the error once more where others look for it."""
    told: Json = error.body()["error"]
    named = {name: told[name] for name in ("code", "message", "param")}
    return b"event: error\ndata: " + orjson.dumps({"type": "error", **named, "sequence_number": number, "error": told}) + b"\n\n"


def broken_event(error: ProxyError) -> bytes:
    """Return the event that tells a stream's reader that it is not whole: a clean end would be taken as complete."""
    return b"data: " + orjson.dumps(error.body()) + b"\n\n"


class CopiedStream:
    """An answer's chunks as they come, none held back; `close` must be awaited in the end."""

    __slots__ = ("_ended", "_ending", "_events", "_has_ending", "_response", "_slot", "_tail")

    def __init__(self, response: aiohttp.ClientResponse, slot: Slot, *, events: bool, ending: Ending | None) -> None:
        self._response = response
        self._slot = slot
        self._events = events
        self._ending = ending
        self._has_ending = False
        self._tail: deque[bytes] = deque(maxlen=_TAIL)
        self._ended = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        try:
            chunk = await self._response.content.readany()
        except BREAKS as error:
            await self.close()
            if not self._events:
                raise no_answer(error) from error
            return self._broken(no_answer(error))
        if chunk:
            if self._ending and self._ending.anywhere and not self._has_ending:
                # a mark may be cut in two
                self._has_ending = _marked((self._tail[-1][-_LONGEST_MARK:] if self._tail else b"") + chunk, self._ending)
            self._tail.append(chunk)
            return chunk
        await self.close()
        if self._ending and not (self._has_ending or _marked(b"".join(self._tail), self._ending)):
            return self._broken(UpstreamUnavailableError(UNREACHABLE))
        raise StopAsyncIteration

    async def close(self) -> None:
        """End the call upstream, if it still runs, and give its slot back."""
        self._ended = True
        self._response.close()
        self._slot.release()

    def _broken(self, error: ProxyError) -> bytes:
        tail = b"".join(self._tail)
        # what stands unfinished is closed first, so that the error is an event of its own
        opening = b"" if not tail or tail.endswith(b"\n\n") else b"\n\n"
        if self._ending and self._ending.anywhere:
            numbers = _NUMBER.findall(tail)
            return opening + broken_response_event(error, int(numbers[-1]) + 1 if numbers else 0)
        return opening + broken_event(error)


def _marked(data: bytes, ending: Ending) -> bool:
    return any(mark in data for mark in ending.marks)
