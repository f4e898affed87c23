"""The composition root: everything is built and wired here, and nothing else is decided here.

`create_app` is for servers and tests that bring their own loop; `run_server` is the whole process.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import uvloop
from starlette.routing import Router

from proxy.app.crew import Crew, Post
from proxy.app.house import MakeWindow
from proxy.app.running import Proxy
from proxy.app.server import Address, Draining, Server
from proxy.errors import ProxyError
from proxy.interfaces import Listener, Upstream
from proxy.observe.events import StateChanged
from proxy.observe.log import Log
from proxy.settings import ConfigError, Settings
from proxy.upstream.config import UpstreamConfigError

__all__ = ["Post", "Proxy", "create_app", "run_server"]

_INTERRUPTED = 128
"""What a shell adds to a signal's number for a process that was ended by it."""
_GC_THRESHOLDS = (20_000, 5, 1)
"""A call makes some hundred objects and few cycles: by Python's own threshold of 700 the collector would run at every second call."""


def create_app(
    settings: Settings,
    *,
    upstream: Upstream | None = None,
    make_window: MakeWindow | None = None,
    listeners: Sequence[Listener] = (),
) -> Router:
    """Return the ASGI application; its lifespan opens and closes everything. What is handed in stays its owner's to close."""
    proxy = Proxy(listeners, upstream=upstream, make_window=make_window)

    @asynccontextmanager
    async def lifespan(_app: object) -> AsyncGenerator[None]:
        try:
            await proxy.use(settings)
            proxy.ready()
            yield
        finally:
            await proxy.aclose()

    return Router(redirect_slashes=False, default=proxy.edge, lifespan=lifespan)


def run_server(load_settings: Callable[[], Settings], *, host: str, port: int, post: Post | None = None) -> int:
    """Serve until a signal ends it, and return the process's exit code: 0 once everybody was answered.

    `load_settings` is called at the start and at each SIGHUP; what it raises at the start is raised. `post`: this is one
    of several workers, which listen on what they were given.
    """
    settings = load_settings()
    log = Log.of_process(settings.log.format, settings.log.level)
    log.adopt_stdlib()
    if not sys.warnoptions:
        # pydantic's quote the answers that litellm writes, and Python keeps every text that it has warned with
        warnings.simplefilter("ignore")
    # a reload that comes before there is anything to reload must not end the process
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(load_settings, settings, post or Address(host, port), log))
    except KeyboardInterrupt:
        return _INTERRUPTED + signal.SIGINT
    except SystemExit as stopped:
        # uvicorn's way to say that it can't listen; its log line has told why
        return stopped.code if isinstance(stopped.code, int) else 1
    except (UpstreamConfigError, ProxyError, OSError) as error:
        log(StateChanged("start_failed", str(error)))
        return 1


async def _serve(load_settings: Callable[[], Settings], settings: Settings, place: Address | Post, log: Log) -> int:
    async with Proxy.running(settings, [log]) as proxy, AsyncExitStack() as stack:
        server = Server(proxy, place if isinstance(place, Address) else Address(), _draining(settings))
        sockets = None
        if isinstance(place, Post):
            crew = Crew(place, proxy.own_metrics, server.stop)
            await stack.enter_async_context(crew.at_work())
            proxy.joint_metrics, server.announce, sockets = crew.metrics, crew.ready, place.sockets()
        server.on_hangup(_reload(server, proxy, load_settings, settings))
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        try:
            await server.serve(sockets)
        finally:
            await server.end()
    return 0 if server.forced is None else _INTERRUPTED + server.forced


def _draining(settings: Settings) -> Draining:
    return Draining(settings.drain_grace_seconds, settings.drain_seconds)


def _reload(server: Server, proxy: Proxy, load_settings: Callable[[], Settings], started: Settings) -> Callable[[], Awaitable[None]]:
    async def reload() -> None:
        try:
            settings = load_settings()
            await proxy.use(settings)
        except (ConfigError, UpstreamConfigError, ProxyError, OSError) as error:
            proxy.publish(StateChanged("reload_refused", str(error)))
        else:
            server.draining = _draining(settings)
            proxy.publish(StateChanged("reloaded", "" if settings.log == started.log else "log: takes effect at the next start"))

    return reload
