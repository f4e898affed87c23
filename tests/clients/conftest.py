"""The run that all tests here read from; only the clients of the chosen tests take part."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import httpx
import pytest
import pytest_asyncio

from tests.acceptance.conftest import Served
from tests.clients.clients import CLIENTS, Client
from tests.clients.environments import command
from tests.clients.matrix import WORDS
from tests.clients.running import Run, running


def is_there(client: Client) -> bool:
    return command(client.environment, client.program) is not None


def chosen(item: pytest.Item) -> Client | None:
    """Return the client that a test is about."""
    client = item.callspec.params.get("client") if isinstance(item, pytest.Function) and hasattr(item, "callspec") else None
    return client if isinstance(client, Client) else None


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Run]:
    """One run for all tests; after it nothing is left open in the proxy, nothing was its own fault, and its log tells no prompt."""
    wanted = [chosen(item) for item in request.session.items]
    async with running(tmp_path_factory.mktemp("clients"), [client for client in CLIENTS if client in wanted and is_there(client)]) as run:
        yield run
        process = run.stage.process
        async with httpx.AsyncClient(base_url=process.url) as client:
            served = Served(process, client)
            await served.until("lesson_proxy_upstream_slots_taken", 0)
            assert await served.metric("lesson_proxy_faults_total") == 0
        assert not [word for word in WORDS if word in repr(process.log())]
