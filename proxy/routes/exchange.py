"""One HTTP request on its way through the routes, and the watch over whether its caller is still there."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property

from starlette.types import Receive, Scope

from proxy.errors import OverloadedError
from proxy.model import CallId, Reply
from proxy.routes.front import Front

_next_id = random.Random().getrandbits  # noqa: S311 - ids must differ, not be secret; asking the system costs 3 % of a call


LINE = "lesson_proxy.line"
"""Where, in a scope's `state`, our own server tells of a request what ASGI tells only to whoever waits for it."""


class Line:
    """The connection under one request, as the server sees it: cheaper to ask than a task that waits for its end."""

    __slots__ = ("left", "on_left", "whole")

    def __init__(self) -> None:
        self.whole = False
        """The request's body is all here."""
        self.left = False
        self.on_left: Callable[[], None] | None = None
        """Called once, when the connection is gone."""

    def lost(self) -> None:
        """Say that the connection is gone."""
        self.left = True
        if self.on_left is not None:
            self.on_left()


class Departure:
    """Watches for the caller's leaving, beside the work: then cancels the task that works for it.

    ASGI servers do not cancel the handler of a connection that is gone; they only say so to whoever calls `receive`.
    The work runs in the handler's own task, so no finished answer can be lost between two tasks.
    """

    __slots__ = ("_line", "_receive", "_watching", "_worker", "left")

    def __init__(self, receive: Receive, line: Line | None) -> None:
        self.left = False
        self._receive = receive
        self._line = line
        self._worker: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """Begin, once the request's body has been read: `receive` then has nothing to tell but the end."""
        self._worker = asyncio.current_task()
        if self._line is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch())
        elif self._line.left:
            self._leave()
        else:
            self._line.on_left = self._leave

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _leave(self) -> None:
        self.left = True
        if self._worker is not None:
            self._worker.cancel()

    def over(self) -> asyncio.Task[None] | None:
        """End the watch: from here on nothing is cancelled. Return the watcher, where it has not ended yet."""
        if self._line is not None:
            self._line.on_left = None
        watching = self._watching
        if watching is None or watching.done():
            return None
        watching.cancel()
        return watching


class Exchange:
    """What an endpoint is given. `path` is normalised; `model` and `handed_over` are told for whoever reports a refusal."""

    def __init__(self, front: Front | None, scope: Scope, receive: Receive) -> None:
        self._front = front
        self.scope = scope
        self.receive = receive
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.id = CallId(f"{_next_id(64):016x}")
        self.started_s = time.monotonic()
        self.line: Line | None = scope.get("state", {}).get(LINE)
        self.departure = Departure(receive, self.line)
        self.model = ""
        self.stream = False
        self.handed_over = False
        self.held_bytes = 0
        """Of the front's room; given back when the exchange is over."""

    def hold(self, size: int) -> None:
        """Take room for so much of a long body; raises OverloadedError where there is none."""
        self.front.room.take(size)
        self.held_bytes += size

    @property
    def front(self) -> Front:
        """The configuration that this request is served by; raises OverloadedError before there is one."""
        if self._front is None:
            raise OverloadedError("The proxy is starting.", retry_after_s=1)
        return self._front

    @property
    def body_is_here(self) -> bool:
        """Tell whether the server says that the whole body has come; False: it may have, or not."""
        return self.line is not None and self.line.whole

    @cached_property
    def headers(self) -> dict[str, str]:
        """The request's headers, names in lower case; one that came several times is joined, as HTTP says."""
        pairs: list[tuple[bytes, bytes]] = self.scope["headers"]
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}
        return headers if len(headers) == len(pairs) else _joined(pairs)


def _joined(pairs: list[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


Endpoint = Callable[[Exchange], Awaitable[Reply]]
Methods = Mapping[str, Endpoint]
"""The endpoints of a path by HTTP method."""
