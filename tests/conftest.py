"""What tests of several kinds share: a Redis server, started when the first of them asks."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.redis_server import RedisServer, start_cluster


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[RedisServer]:
    """One server for every test that neither stops nor empties it."""
    server = RedisServer.start(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[RedisServer]:
    """One node of a cluster of two."""
    servers = start_cluster(tmp_path_factory.mktemp("redis-cluster"))
    yield servers[0]
    for server in servers:
        server.kill()
