"""One HTTP exchange with an ASGI application as a server sees it: parts of a body in, an answer out, and a caller that may leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from proxy.access.keys import Access
from proxy.model import Call, Json, Lesson, Reply, Unbatchable
from proxy.routes.edge import Edge
from proxy.routes.front import Front
from proxy.routes.openpaths import OpenPaths
from proxy.together import Together
from tests.fakes import FakeUpstream

CHAT = "/v1/chat/completions"
HELLO: Json = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
OK = Reply(200, (("content-type", "application/json"),), b'{"ok":true}')
Header = tuple[str, str]
App = Callable[[Any, Any, Any], Awaitable[None]]


@dataclass
class Exchange:
    """What one request brought. `leave` cuts the caller's connection."""

    parts: Sequence[bytes] = (b"",)
    status: int = 0
    raw_headers: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])
    pieces: list[bytes] = field(default_factory=list[bytes])
    complete: bool = False
    parts_read: int = 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    piece_came: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def error(self) -> Any:
        """The error object, which must have all four keys."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.raw_headers}

    def leave(self) -> None:
        self.gone.set()

    async def receive(self) -> dict[str, Any]:
        if self.gone.is_set():
            return {"type": "http.disconnect"}
        if self.parts_read < len(self.parts):
            self.parts_read += 1
            return {"type": "http.request", "body": self.parts[self.parts_read - 1], "more_body": self.parts_read < len(self.parts)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        await asyncio.sleep(0)
        if self.gone.is_set():
            return
        assert not self.complete, "something was written behind the answer's end"
        if message["type"] == "http.response.start":
            assert not self.status, "the answer was started twice"
            self.status, self.raw_headers = message["status"], list(message["headers"])
            return
        self.pieces.append(message.get("body", b""))
        self.piece_came.set()
        if not message.get("more_body", False):
            self.complete = True
            # a server wakes whoever waits in `receive` when the answer is whole
            self.gone.set()


def scope(method: str, path: str, headers: Sequence[Header] = (), query: bytes = b"") -> dict[str, Any]:
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return {"type": "http", "method": method, "path": path, "query_string": query, "headers": raw}


def start(app: App, exchange: Exchange, method: str = "POST", path: str = CHAT, headers: Sequence[Header] = ()) -> asyncio.Task[None]:
    """Begin an exchange in a task of its own, as servers do."""

    async def run() -> None:
        await app(scope(method, path, headers), exchange.receive, exchange.send)

    return asyncio.get_running_loop().create_task(run())


async def ask(
    app: App, method: str = "POST", path: str = CHAT, body: Any = HELLO, headers: Sequence[Header] = (), query: bytes = b""
) -> Exchange:
    """Send one request whole and return what came back."""
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    exchange = Exchange(parts=[raw])
    await app(scope(method, path, headers, query), exchange.receive, exchange.send)
    return exchange


@dataclass
class House:
    """An edge before an answering function of the test's; remembers calls and events."""

    reply: Reply | BaseException | Callable[[Call], Awaitable[Reply]] = OK
    access: Access = field(default_factory=lambda: Access(digest_key=b"k" * 32))
    open_paths: OpenPaths = field(default_factory=OpenPaths)
    max_body_bytes: int = 1000
    calls: list[Call] = field(default_factory=list[Call])
    called: asyncio.Event = field(default_factory=asyncio.Event)
    events: list[Any] = field(default_factory=list[Any])
    upstream: FakeUpstream = field(default_factory=FakeUpstream)
    verdict: Lesson | Unbatchable = field(default_factory=lambda: Unbatchable("no_rule"))

    def __post_init__(self) -> None:
        self.edge = Edge(publish=self._publish, render_metrics=_metrics)
        self.edge.front = self.front()
        self.edge.state = "ready"

    def front(self) -> Front:
        together = Together(judge=self._judge, answer=self._answer, publish=self._publish)
        return Front(self._answer, self.access, self.upstream, self.open_paths, self.max_body_bytes, together, max_size=5)

    def _judge(self, _call: Call) -> Lesson | Unbatchable:
        return self.verdict

    def _publish(self, event: object) -> None:
        self.events.append(event)

    async def _answer(self, call: Call, verdict: Lesson | Unbatchable | None = None) -> Reply:
        self.calls.append(call)
        self.called.set()
        if isinstance(self.reply, BaseException):
            raise self.reply
        return self.reply if isinstance(self.reply, Reply) else await self.reply(call)

    async def settled(self) -> None:
        """Return when nothing of the edge runs any more, and check that nothing was left behind."""
        await self.edge.aclose()
        assert self.edge.front is not None
        assert self.edge.front.lease.count == 0
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


@dataclass
class Stream:
    """The chunks of a streamed reply: text, an error to raise, or an event to wait for; counts how it was ended."""

    steps: Sequence[bytes | BaseException | asyncio.Event]
    kind: str = "text/event-stream"
    closed: int = 0
    finalised: bool = False

    async def _chunks(self) -> AsyncIterator[bytes]:
        try:
            for step in self.steps:
                match step:
                    case bytes():
                        yield step
                    case asyncio.Event():
                        await step.wait()
                    case _:
                        raise step
        finally:
            self.finalised = True

    async def _close(self) -> None:
        self.closed += 1

    def reply(self) -> Reply:
        return Reply(200, (("content-type", self.kind),), chunks=self._chunks(), close=self._close)


async def _metrics() -> tuple[bytes, str]:
    return b"metrics", "text/plain"
