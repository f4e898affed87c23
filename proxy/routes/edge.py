"""The ASGI application: finds a request's endpoint, writes its answer, and turns whatever goes wrong into OpenAI's errors.

Written on ASGI itself, since the hot path passes here: a table of paths in place of patterns, and no middleware.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

from proxy.errors import InternalError, MethodNotAllowedError, NotFoundError, OverloadedError, ProxyError
from proxy.interfaces import Listener
from proxy.model import Reply
from proxy.observe.events import CallFinished
from proxy.observe.faults import fault
from proxy.routes.body import CallerLeftError
from proxy.routes.calls import model_call, open_path
from proxy.routes.exchange import Endpoint, Exchange, Methods
from proxy.routes.front import Front
from proxy.routes.lessons import batch, variants
from proxy.routes.operations import MODELS, RESPONSES, State, list_models, one_model, ready_reply, stored_response, unbuilt
from proxy.routes.paths import normalise
from proxy.routes.replies import Writer, json_reply

_CALLS: Methods = {"POST": model_call}
_ONE_MODEL: Methods = {"GET": one_model, "HEAD": one_model}
_UNDER_V1: dict[str, Methods] = {
    "/v1/chat/completions": _CALLS,
    "/v1/responses": _CALLS,
    "/v1/completions": _CALLS,
    "/v1/embeddings": _CALLS,
    "/v1/lessons/batch": {"POST": batch},
    "/v1/lessons/variants": {"POST": variants},
    "/v1/models": {"GET": list_models, "HEAD": list_models},
}


class Edge:
    """The application. `front` answers calls: swap it, and calls that begin later go to the new one.

    Arguments: where events go, and what renders `/metrics` (its text and content type).
    """

    def __init__(self, *, publish: Listener, render_metrics: Callable[[], Awaitable[tuple[bytes, str]]]) -> None:
        self._publish = publish
        self._render_metrics = render_metrics
        self._watchers: set[asyncio.Task[None]] = set()
        self.front: Front | None = None
        self.state: State = "starting"
        self._listed = _UNDER_V1 | {
            "/health/live": _reading(self._live),
            "/health/ready": _reading(self._ready),
            "/metrics": _reading(self._metrics),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        if scope["type"] != "http":
            await WebSocketClose()(scope, receive, send)
            return
        front = self.front
        if front is None:
            await self._serve(Exchange(None, scope, receive), send)
            return
        front.lease.take()
        exchange = Exchange(front, scope, receive)
        try:
            await self._serve(exchange, send)
        finally:
            front.room.give_back(exchange.held_bytes)
            front.lease.give_back()

    async def aclose(self) -> None:
        """Await what still watches for callers that leave."""
        await asyncio.gather(*self._watchers, return_exceptions=True)

    async def _serve(self, exchange: Exchange, send: Send) -> None:
        writer = Writer(send, exchange.id, closing=self.state == "draining")
        try:
            await self._respond(exchange, writer)
        except CallerLeftError:
            pass
        except ProxyError as error:
            self._tell_refused(exchange, error)
            await writer.fail(error)
        except asyncio.CancelledError:
            await _cancelled(exchange, writer)
        except Exception as error:  # noqa: BLE001 - the exception table's last row: a caller is told that it was us, and nothing else
            self._publish(fault("edge", error, exchange.id))
            await writer.fail(InternalError(f"The proxy failed on this request; its log tells more under {exchange.id}."))

    async def _respond(self, exchange: Exchange, writer: Writer) -> None:
        departure = exchange.departure
        reply: Reply | None = None
        try:
            reply = await self._endpoint(exchange)(exchange)
            await writer.write(reply)
        finally:
            if watcher := departure.over():
                self._watchers.add(watcher)
                watcher.add_done_callback(self._watchers.discard)
            if reply is not None:
                await _end(reply)

    def _endpoint(self, exchange: Exchange) -> Endpoint:
        """Find who answers; `exchange.path` becomes the path as it is called here."""
        methods = self._listed.get(exchange.path)
        if methods is None:
            exchange.path = _known_as(exchange.path)
            methods = self._listed.get(exchange.path)
            if methods is None:
                return _elsewhere(exchange)
        endpoint = methods.get(exchange.method)
        return endpoint or _not_allowed(methods)

    def _tell_refused(self, exchange: Exchange, error: ProxyError) -> None:
        """Tell the end of a call that never reached the batcher, which tells all others."""
        if exchange.handed_over:
            return
        self._publish(
            CallFinished(
                call_id=exchange.id,
                path=exchange.path,
                model=exchange.model,
                status=error.http_status,
                way="refused",
                reason=error.code,
                error=error.code or error.type,
                rule=None,
                would_merge=False,
                stream=exchange.stream,
                key=None,
                key_name=None,
                batch_id=None,
                batch_size=0,
                wait_ms=0.0,
                total_ms=(time.monotonic() - exchange.started_s) * 1000,
                usage=None,
                estimated=False,
                input_tokens_saved=0,
            )
        )

    async def _live(self, _exchange: Exchange) -> Reply:
        return json_reply(200, {"status": "alive"})

    async def _ready(self, _exchange: Exchange) -> Reply:
        return ready_reply(self.state)

    async def _metrics(self, _exchange: Exchange) -> Reply:
        text, content_type = await self._render_metrics()
        return Reply(200, (("content-type", content_type),), text)


def _reading(endpoint: Endpoint) -> Methods:
    return {"GET": endpoint, "HEAD": endpoint}


def _known_as(raw_path: str) -> str:
    path = normalise(raw_path)
    if path is None:
        raise NotFoundError("There is nothing at this path.", code="unknown_url")
    with_v1 = "/v1" + path
    return with_v1 if with_v1 in _UNDER_V1 or with_v1.startswith((MODELS, RESPONSES)) or unbuilt(with_v1) else path


def _elsewhere(exchange: Exchange) -> Endpoint:
    path = exchange.path
    if path.startswith(MODELS):
        return _ONE_MODEL.get(exchange.method) or _not_allowed(_ONE_MODEL)
    if exchange.front.open_paths.methods(path):
        return open_path
    if path.startswith(RESPONSES):
        return stored_response
    if refused := unbuilt(path):
        raise refused
    if path.startswith("/v1/"):
        return open_path
    raise NotFoundError(f"There is nothing at {path[:200]}. The API's paths are under /v1.", code="unknown_url")


def _not_allowed(methods: Methods) -> Endpoint:
    allow = ", ".join(methods)

    async def refuse(exchange: Exchange) -> Reply:
        raise MethodNotAllowedError(f"{exchange.path} takes {allow}, not {exchange.method[:20]}.").told((("allow", allow),))

    return refuse


async def _end(reply: Reply) -> None:
    """Give back what an answer holds, however far it came."""
    try:
        aclose = getattr(reply.chunks, "aclose", None)
        if aclose is not None:
            # a generator that was left in the middle would otherwise wait for the garbage collector
            await aclose()
    finally:
        await reply.close()


async def _cancelled(exchange: Exchange, writer: Writer) -> None:
    worker = asyncio.current_task()
    if exchange.departure.left:
        if worker is not None:
            worker.uncancel()
        return
    # not the caller's doing: the server stops, and this call's time is over
    await writer.fail(OverloadedError("The proxy is stopping; send the request again.", code="stopping", retry_after_s=1))
    if worker is not None and worker.cancelling():
        raise asyncio.CancelledError
