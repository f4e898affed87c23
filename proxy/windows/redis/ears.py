"""Hears what the store tells this replica; while it can't, the replica's ticks find out everything a little later."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from proxy.windows.protocol import Message
from proxy.windows.redis.link import Client, ready
from proxy.windows.redis.scripts import message_of

_QUIET_S = 5.0
"""After so long without a word the connection is tried."""
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0


class Ears:
    """Listens on one channel. `heard` is told each message, `listening` that messages before now may have been missed."""

    def __init__(
        self, connect: Callable[[], Client], channel: str, *, heard: Callable[[Message], None], listening: Callable[[], None]
    ) -> None:
        self._connect = connect
        self._channel = channel
        self._heard = heard
        self._listening = listening
        self._task: asyncio.Task[None] | None = None
        self.open_ears = asyncio.Event()
        """Set while the channel is listened to."""

    def open(self) -> None:
        """Begin to listen."""
        self._task = asyncio.create_task(self._run(), name="redis ears")

    async def aclose(self) -> None:
        """End."""
        if self._task:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            client = self._connect()
            try:
                await self._listen(client)
            except Exception:  # noqa: BLE001 - the border to redis-py: whatever it raises, it is tried again
                pause_s = _FIRST_PAUSE_S if self.open_ears.is_set() else min(pause_s * 2, _LONGEST_PAUSE_S)
            finally:
                self.open_ears.clear()
                with contextlib.suppress(Exception):
                    await asyncio.shield(client.aclose())
            await asyncio.sleep(pause_s)

    async def _listen(self, client: Client) -> None:
        await ready(client)
        pubsub: Any = client.pubsub()
        async with pubsub:
            await pubsub.subscribe(self._channel)
            asked = False
            while True:
                word = await pubsub.get_message(timeout=_QUIET_S)
                if word is None:
                    if asked:
                        raise TimeoutError
                    await pubsub.ping()
                asked = word is None
                if word is None:
                    continue
                if word["type"] == "subscribe":
                    self.open_ears.set()
                    self._listening()
                elif word["type"] == "message" and (message := message_of(word["data"])):
                    self._heard(message)
