"""What `make bench-peers` may do: load the loopback alone, and install what its locks pin."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.gateways import GATEWAYS, Gateway
from bench.harness import chunked_answer, http_answer, instant_upstream, load, request_bytes
from bench.peers import named_peers

LOCKS = Path(__file__).parents[2] / "bench" / "peers"
each_gateway = pytest.mark.parametrize("gateway", GATEWAYS, ids=lambda gateway: gateway.name)


def test_gateways_that_run_already_are_named_with_their_ports() -> None:
    found = named_peers("one=http://127.0.0.1:8080 other=http://localhost:9090/v1")
    assert [(server.name, server.port, server.process) for server in found] == [("one", 8080, None), ("other", 9090, None)]
    assert named_peers("") == []


@pytest.mark.parametrize("peer", ["far=http://10.0.0.7:8080", "far=https://example.com/v1", "http://127.0.0.1", "name"])
def test_nothing_but_the_loopback_is_loaded(peer: str) -> None:
    with pytest.raises(SystemExit, match="must be like"):
        named_peers(peer)


@each_gateway
def test_a_gateways_lock_pins_every_package_by_hash_and_names_no_index(gateway: Gateway) -> None:
    lock = (LOCKS / f"{gateway.name}.lock").read_text()
    pinned = re.findall(r"^[a-z0-9].*?==\S+.*\\$", lock, re.MULTILINE)
    assert len(pinned) == len(re.findall(r"^[a-z0-9]", lock, re.MULTILINE)) > 0
    assert len(re.findall(r"--hash=sha256:", lock)) >= len(pinned)
    assert "://" not in lock
    assert re.fullmatch(r"[0-9.]+", gateway.version)


async def test_the_upstream_streams_where_a_stream_is_asked_for() -> None:
    events = [b"data: one\n\n", b"data: [DONE]\n\n"]
    async with instant_upstream([http_answer(b"{}")], streamed=chunked_answer(events), gap_s=0.05) as upstream:
        port = int(upstream.rpartition(":")[2])
        _, (whole,) = await load(port, request_bytes(b'{"stream":false}'), connections=1, calls=1)
        _, (streamed,) = await load(port, request_bytes(b'{"stream": true}'), connections=1, calls=1)
    assert whole < 0.05 < streamed
