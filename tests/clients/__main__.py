"""`make clients`: plays everything and writes docs/clients.md; Node's part must be there for that."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.clients.clients import CLIENTS
from tests.clients.environments import NO_NODE, command
from tests.clients.running import running
from tests.clients.table import DOCUMENT, document


async def write() -> None:
    """Play all clients and write the page."""
    with tempfile.TemporaryDirectory() as folder:
        async with running(Path(folder), CLIENTS) as run:
            played = {client.name: await run.of(client) for client in CLIENTS}
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(document(played, {client.name: client for client in CLIENTS}))
    sys.stdout.write(f"wrote {DOCUMENT}\n")


if __name__ == "__main__":
    if any(command(client.environment, client.program) is None for client in CLIENTS):
        sys.exit(f"the page tells of all clients, and Node's are missing: {NO_NODE}")
    asyncio.run(write())
