"""The run of all clients: each is started with the run, and waited for where it is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.clients.clients import Client
from tests.clients.matrix import Order, Played, play
from tests.clients.stage import Stage, staged


@dataclass(frozen=True, slots=True)
class Run:
    """What is being played."""

    stage: Stage
    _plays: dict[str, asyncio.Task[Played]]

    async def of(self, client: Client) -> Played:
        """Return what came of a client's cases, once they have been played."""
        return await asyncio.shield(self._plays[client.name])


@asynccontextmanager
async def running(folder: Path, clients: Sequence[Client]) -> AsyncGenerator[Run]:
    """Start the proxy, the providers and the clients' programs."""
    async with staged(folder, clients) as stage:
        order = Order(len(clients))
        plays = {client.name: asyncio.create_task(play(client, stage, order)) for client in clients}
        try:
            yield Run(stage, plays)
        finally:
            for task in plays.values():
                task.cancel()
            await asyncio.gather(*plays.values(), return_exceptions=True)
