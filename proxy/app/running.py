"""The process's life: open, ready, reloaded, draining, closed. It knows no server and no signal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, Self, runtime_checkable

from proxy.app.house import House, Lasting, MakeWindow, open_house
from proxy.interfaces import Listener, Upstream
from proxy.observe.events import StateChanged
from proxy.observe.hub import Hub
from proxy.observe.metrics import Metrics
from proxy.routes.edge import Edge
from proxy.settings import Settings, dangers
from proxy.upstream.gateway import Gateway


@runtime_checkable
class _Counted(Protocol):
    """A window that tells figures of itself."""

    @property
    def open_windows(self) -> int:
        """The number of open windows."""
        ...

    @property
    def waiting(self) -> int:
        """The number of calls in open windows."""
        ...

    @property
    def running_batches(self) -> int:
        """The number of batches that are under way."""
        ...

    @property
    def shared(self) -> bool:
        """Whether other processes' calls can be in the same windows."""
        ...


_LEAVING_S = 5.0
"""How long a house that closes waits for calls that were told to end."""


class Proxy:
    """Everything of one process but its server: `edge` is the ASGI application.

    Arguments: further listeners beside the metrics, and what stands in for the usual upstream and window.
    """

    def __init__(
        self, listeners: Sequence[Listener] = (), *, upstream: Upstream | None = None, make_window: MakeWindow | None = None
    ) -> None:
        self.metrics = Metrics()
        self.publish = Hub((self.metrics, *listeners))
        self.edge = Edge(publish=self.publish, render_metrics=self._render)
        self.joint_metrics: Callable[[], Awaitable[bytes]] | None = None
        """What tells the metrics of all workers, where there are several."""
        self._lasting = Lasting(self.publish)
        self._upstream = upstream
        self._make_window = make_window
        self._house: House | None = None
        self._retiring: dict[asyncio.Task[None], House] = {}
        self._reloading = asyncio.Lock()
        self._define_gauges()

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        settings: Settings,
        listeners: Sequence[Listener] = (),
        *,
        upstream: Upstream | None = None,
        make_window: MakeWindow | None = None,
    ) -> AsyncGenerator[Self]:
        """Open a proxy; leaving the context closes it."""
        proxy = cls(listeners, upstream=upstream, make_window=make_window)
        try:
            await proxy.use(settings)
            yield proxy
        finally:
            await proxy.aclose()

    async def use(self, settings: Settings) -> None:
        """Answer new calls as `settings` say. Calls under way end as they began, then what stood behind them is closed.

        Whatever fails leaves everything as it was, and is raised.
        """
        async with self._reloading:
            house = await open_house(settings, self._lasting, upstream=self._upstream, make_window=self._make_window)
            self.metrics.configure([entry.model_name for entry in settings.model_list])
            former, self._house = self._house, house
            self.edge.front = house.front
            if self.edge.state == "draining":
                await house.window.drain()
            for danger in dangers(settings):
                self.publish(StateChanged("danger", str(danger)))
            if former is not None:
                task = asyncio.get_running_loop().create_task(_retire(former))
                self._retiring[task] = former
                task.add_done_callback(self._retiring.pop)

    def ready(self, detail: str = "") -> None:
        """Say that calls are welcome."""
        self.edge.state = "ready"
        self.publish(StateChanged("ready", detail))

    async def drain(self, detail: str = "") -> None:
        """Say that no more calls are welcome: those that come go alone, and every open window closes at once."""
        self.edge.state = "draining"
        self.publish(StateChanged("draining", detail))
        for house in self._houses():
            await house.window.drain()

    async def settled(self) -> None:
        """Return when no batch is under way; those that are may be for other processes' callers alone."""
        for house in self._houses():
            await house.window.settled()

    async def aclose(self) -> None:
        """Close what is open, old houses and new."""
        async with self._reloading:
            house, self._house = self._house, None
            self.edge.front = None
        if house is not None:
            await _retire(house, patience_s=_LEAVING_S)
        for task in list(self._retiring):
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await self.edge.aclose()
        self.publish(StateChanged("stopped"))

    def own_metrics(self) -> bytes:
        """Return the text of this process's metrics."""
        return self.metrics.render()[0]

    async def _render(self) -> tuple[bytes, str]:
        text, content_type = self.metrics.render()
        return (await self.joint_metrics() if self.joint_metrics else text), content_type

    def _houses(self) -> Iterator[House]:
        if self._house is not None:
            yield self._house
        yield from tuple(self._retiring.values())

    def _define_gauges(self) -> None:
        self.metrics.gauge("open_windows", "Windows that are open.", self._windows(lambda window: window.open_windows))
        self.metrics.gauge("waiting_calls", "Calls that wait in open windows.", self._windows(lambda window: window.waiting))
        self.metrics.gauge("running_batches", "Batches under way upstream.", self._windows(lambda window: window.running_batches))
        self.metrics.gauge("ahead_kept", "Lessons that were asked for ahead and wait for a call.", self._kept_ahead)
        self.metrics.gauge("sharing", "1 while windows are shared through Redis.", self._windows(lambda window: window.shared))
        self.metrics.gauge("calls_in_flight", "Requests that are being served.", self._calls_in_flight)
        self.metrics.gauge("upstream_slots_taken", "Calls upstream.", self._slots_taken)
        self.metrics.gauge("listener_failures", "Events that a listener failed on.", lambda: self.publish.failures)

    def _windows(self, read: Callable[[_Counted], int]) -> Callable[[], float]:
        return lambda: sum(read(house.window) for house in self._houses() if isinstance(house.window, _Counted))

    def _kept_ahead(self) -> float:
        return sum(house.kept_ahead for house in self._houses())

    def _calls_in_flight(self) -> float:
        return sum(house.front.lease.count for house in self._houses())

    def _slots_taken(self) -> float:
        return sum(house.upstream.slots_taken for house in self._houses() if isinstance(house.upstream, Gateway))


async def _retire(house: House, patience_s: float | None = None) -> None:
    """Close a house after its last call and its last batch, or when the patience is at its end."""
    try:
        async with asyncio.timeout(patience_s):
            await house.front.lease.idle()
            await house.window.settled()
    except TimeoutError:
        pass
    finally:
        await house.aclose()
