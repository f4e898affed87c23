"""One configuration built into rooms that are wired to each other, and closed again in the opposite order."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from proxy.app.wiring import access, open_paths, upstream_config, uses_simulated
from proxy.batcher import Batcher
from proxy.budget import ResendBudget
from proxy.dispatch import Dispatcher
from proxy.interfaces import Dispatch, Listener, Tokens, Upstream, Window
from proxy.lessons.recognise import Recogniser
from proxy.model import Call, Lesson, Unbatchable
from proxy.observe.events import StateChanged
from proxy.policy import AheadPolicy, LessonPolicy
from proxy.routes.front import Front, Room
from proxy.settings import Settings
from proxy.simulated import Provider
from proxy.sites import Sites
from proxy.together import Together
from proxy.upstream.config import UpstreamConfig
from proxy.upstream.gateway import Gateway
from proxy.upstream.tokens import TiktokenTokens
from proxy.windows.ahead import Ahead
from proxy.windows.memory import MemoryWindow

_BYTES_PER_MB = 1_048_576

MakeWindow = Callable[[Dispatch], Window]


@dataclass(frozen=True, slots=True)
class Lasting:
    """What outlives a configuration: what was learned, what is counted, and by which key the digests are made."""

    publish: Listener
    tokens: Tokens = field(default_factory=TiktokenTokens)
    sites: Sites = field(default_factory=Sites)
    budget: ResendBudget = field(default_factory=ResendBudget)
    digest_key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)


@dataclass(frozen=True, slots=True)
class House:
    """A configuration at work."""

    front: Front
    window: Window
    upstream: Upstream
    _ahead: Ahead | None
    _rooms: AsyncExitStack

    @property
    def kept_ahead(self) -> int:
        """The number of lessons that wait for calls of loops."""
        return self._ahead.kept if self._ahead else 0

    async def aclose(self) -> None:
        """Close every room; calls that still run lose theirs."""
        await self._rooms.aclose()


async def open_house(
    settings: Settings, lasting: Lasting, *, upstream: Upstream | None = None, make_window: MakeWindow | None = None
) -> House:
    """Build and open everything that `settings` ask for; what was opened is closed again if something fails.

    `upstream` and `make_window` stand in for the usual ones; an `upstream` that is handed in stays its owner's to close.
    """
    async with AsyncExitStack() as rooms:
        simulated = await _simulated(settings, lasting, rooms) if upstream is None else None
        config = upstream_config(settings, simulated)
        if upstream is None:
            upstream = await _gateway(config, rooms)
        dispatcher = Dispatcher(
            upstream=upstream, sites=lasting.sites, tokens=lasting.tokens, publish=lasting.publish, num_retries=settings.num_retries
        )
        window, digest_key = await _window(settings, lasting, dispatcher, rooms, make_window)
        lasting.sites.share_windows(shared=make_window is None and settings.redis.url is not None)
        policy = settings.lesson_policy()
        ahead = _ahead(settings.lessons.ahead, dispatcher)
        if ahead:
            rooms.push_async_callback(ahead.aclose)
        batcher = Batcher(
            judge=_judge(policy),
            window=window,
            upstream=upstream,
            sites=lasting.sites,
            budget=lasting.budget,
            publish=lasting.publish,
            ahead=ahead,
        )
        front = Front(
            answer=batcher.answer,
            access=access(settings, digest_key),
            upstream=upstream,
            open_paths=open_paths(settings, config),
            max_body_bytes=int(settings.bounds.body_mb * _BYTES_PER_MB),
            together=Together(judge=batcher.judge, answer=batcher.answer, publish=lasting.publish),
            max_size=policy.window.max_size,
            room=Room(int(settings.bounds.bodies_mb * _BYTES_PER_MB)),
        )
        return House(front, window, upstream, ahead, rooms.pop_all())


async def _simulated(settings: Settings, lasting: Lasting, rooms: AsyncExitStack) -> tuple[str, str] | None:
    """Open the provider inside this process, where a model asks for it; return its address and the key that it wants."""
    if not uses_simulated(settings):
        return None
    key = secrets.token_urlsafe(24)
    provider = await rooms.enter_async_context(Provider.running(api_key=key))
    lasting.publish(StateChanged("embedded_provider", f"simulated answers from {provider.url}: no model is asked"))
    return provider.url, key


async def _gateway(config: UpstreamConfig, rooms: AsyncExitStack) -> Gateway:
    gateway = Gateway(config)
    rooms.push_async_callback(gateway.aclose)
    await gateway.open()
    return gateway


async def _window(
    settings: Settings, lasting: Lasting, dispatch: Dispatch, rooms: AsyncExitStack, make_window: MakeWindow | None
) -> tuple[Window, bytes]:
    """Return the open window, and the key by which API keys are digested: equal wherever windows are shared."""
    bounds = settings.bounds
    if make_window is None and settings.redis.url is not None:
        from proxy.app.sharing import Shared  # noqa: PLC0415 - redis-py: only where somebody uses it

        if shared := Shared.of(settings):
            window = shared.window(settings, dispatch, lasting.publish)
            rooms.push_async_callback(window.aclose)
            await window.open()
            return window, shared.digest_key()
    alone = (
        make_window(dispatch)
        if make_window
        else MemoryWindow(dispatch, max_waiting=bounds.waiting_calls, max_windows=bounds.open_windows, new_id=lambda: secrets.token_hex(8))
    )
    rooms.push_async_callback(alone.aclose)
    return alone, lasting.digest_key


def _ahead(policy: AheadPolicy, dispatcher: Dispatcher) -> Ahead | None:
    """Return what keeps lessons for loops: as long as this configuration, so none outlives the route that it came by."""
    if not policy.enabled:
        return None
    return Ahead(
        dispatcher,
        wasted=dispatcher.wasted,
        new_id=lambda: secrets.token_hex(8),
        max_kept=policy.max_kept,
        max_bytes=int(policy.max_kept_mb * _BYTES_PER_MB),
        keep_s=policy.keep_seconds,
    )


def _judge(policy: LessonPolicy) -> Callable[[Call], Lesson | Unbatchable] | None:
    """Return what judges calls; None: no body needs to be looked into."""
    recogniser = Recogniser(policy)
    return None if recogniser.asleep else recogniser.judge
