"""Serves the simulated provider: as an application, inside another process's event loop, or alone until it is stopped."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Unpack

from aiohttp import web

from proxy.simulated.options import Choices, Options
from proxy.simulated.service import Service
from proxy.simulated.stats import Stats
from proxy.simulated.tokens import tokenizer

_LARGEST_BODY = 32 * 2**20
_BACKLOG = 1_024
_SHUTDOWN_S = 0.25
_SERVICE = web.AppKey("service", Service)


def create_provider(**choices: Unpack[Choices]) -> web.Application:
    """Return the application; serve it with `handler_cancellation=True`, so that clients that leave stop their answers."""
    service = Service(Options(**choices), tokenizer())
    app = web.Application(client_max_size=_LARGEST_BODY)
    app[_SERVICE] = service
    for prefix in ("", "/v1"):
        app.router.add_post(f"{prefix}/chat/completions", service.guarded(service.chat))
        app.router.add_post(f"{prefix}/messages", service.guarded(service.messages))
        app.router.add_post(f"{prefix}/responses", service.guarded(service.responses))
        app.router.add_post(f"{prefix}/completions", service.guarded(service.completions))
        app.router.add_post(f"{prefix}/embeddings", service.guarded(service.embeddings))
        app.router.add_get(f"{prefix}/models", service.guarded(service.models))
        app.router.add_get(f"{prefix}/models/{{id:.+}}", service.guarded(service.model))
    for prefix in ("", "/v1beta"):
        app.router.add_post(f"{prefix}/models/{{call:.+}}", service.guarded(service.generate))
    app.router.add_get("/health", service.health)
    app.router.add_get("/stats", service.show_stats)
    app.router.add_delete("/stats", service.show_stats)
    app.router.add_route("*", "/redirected", service.redirected)
    app.router.add_route("*", "/{tail:.*}", service.guarded(service.unknown))
    return app


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider that is being served."""

    host: str
    port: int
    stats: Stats

    @property
    def origin(self) -> str:
        """Return the address without a path."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Return the base URL for OpenAI's clients."""
        return f"{self.origin}/v1"

    @classmethod
    @asynccontextmanager
    async def running(cls, host: str = "127.0.0.1", port: int = 0, **choices: Unpack[Choices]) -> AsyncGenerator[Provider]:
        """Serve in the running event loop; port 0 takes a free one. Raises OSError where the address can't be had."""
        app = create_provider(**choices)
        listener = _listener(host, port)
        runner = web.AppRunner(app, handle_signals=False, handler_cancellation=True, access_log=None, shutdown_timeout=_SHUTDOWN_S)
        try:
            await runner.setup()
            await web.SockSite(runner, listener, backlog=_BACKLOG).start()
            yield cls(host, listener.getsockname()[1], app[_SERVICE].stats)
        finally:
            await runner.cleanup()
            listener.close()


def _listener(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def run(  # noqa: PLR0913 - one argument a choice of the command line
    port: int = 4010,
    host: str = "127.0.0.1",
    *,
    tokens_per_second: float | None = None,
    first_token_ms: float = 0.0,
    seed: int = 0,
    api_key: str | None = None,
    dialect: str = "plain",
    ready: Callable[[Provider], None] | None = None,
) -> int:
    """Serve until SIGINT or SIGTERM and return 0; `ready` is told once the port is open. Raises OSError as `running` does."""

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        running = Provider.running(
            host,
            port,
            tokens_per_second=tokens_per_second,
            first_token_s=first_token_ms / 1000,
            seed=seed,
            api_key=api_key,
            dialect=dialect,
        )
        async with running as provider:
            if ready is not None:
                ready(provider)
            await stop.wait()

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve())
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - not to be had on every system
    except ImportError:
        return None
    return uvloop.new_event_loop
