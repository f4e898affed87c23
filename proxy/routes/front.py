"""What the routes need of the house, as one value that can be swapped while calls run; it knows no settings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from proxy.access.keys import Access
from proxy.errors import OverloadedError
from proxy.interfaces import Upstream
from proxy.model import Call, Reply
from proxy.routes.openpaths import OpenPaths
from proxy.together import Together


class Lease:
    """Counts the calls that run on a front, so that what stands behind it is closed after the last and not before."""

    __slots__ = ("_idle", "count")

    def __init__(self) -> None:
        self.count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def take(self) -> None:
        """Note that a call begins."""
        if not self.count:
            self._idle.clear()
        self.count += 1

    def give_back(self) -> None:
        """Note that a call is over, its answer written or its caller gone."""
        self.count -= 1
        if not self.count:
            self._idle.set()

    async def idle(self) -> None:
        """Return when no call runs."""
        await self._idle.wait()


class Room:
    """Counts the bytes of long request bodies that are held at one time, all calls together."""

    __slots__ = ("left",)

    def __init__(self, most_bytes: int = 256 * 1_048_576) -> None:
        self.left = most_bytes

    def take(self, size: int) -> None:
        """Note that so many bytes are held; raises OverloadedError where there is no room for them."""
        if size > self.left:
            raise OverloadedError(
                "The proxy holds as many long request bodies as it may; try again shortly.", code="bodies", retry_after_s=1
            )
        self.left -= size

    def give_back(self, size: int) -> None:
        """Note that they are not held any more."""
        self.left += size


@dataclass(frozen=True, slots=True)
class Front:
    """One configuration at work. A call that began on a front ends on it, whatever is configured meanwhile."""

    answer: Callable[[Call], Awaitable[Reply]]
    """The batcher: tells each call's end itself, its own errors included."""
    access: Access
    upstream: Upstream
    open_paths: OpenPaths
    max_body_bytes: int
    together: Together
    """The same for calls that came as one."""
    max_size: int
    """Lessons of a batch, where no rule says otherwise."""
    lease: Lease = field(default_factory=Lease)
    room: Room = field(default_factory=Room)
