"""The courier between a replica and its store, before a store whose speed is the test's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.model import BatchKey, Plan
from proxy.windows.notices import Notice, RoundTrip, StoreDown
from proxy.windows.protocol import Command, Epoch, Join, ReplicaId, Reply, Seated, Ticket
from proxy.windows.redis.courier import Courier
from proxy.windows.redis.scripts import Scripts
from tests.virtual_time import run

ME = ReplicaId("me")
TIMEOUT_S = 0.05


class SteadyStore:
    """Takes as long for every command: answers joins with a seat, and the probe's claim with an empty window."""

    def __init__(self, command_s: float) -> None:
        self.command_s = command_s

    def pipeline(self, *, transaction: bool) -> Any:
        return _Pipeline(self.command_s)

    def pubsub(self) -> Any:
        raise NotImplementedError

    async def aclose(self) -> None:
        pass


class _Pipeline:
    def __init__(self, command_s: float) -> None:
        self.command_s = command_s
        self.answers: list[list[bytes]] = []

    def execute_command(self, word: str, script: str, keys: int, head: str, *arguments: Any) -> None:
        claims = len(arguments) == len(("epoch", "leader", "closed by"))
        self.answers.append([b"1.0", b"drained", b"time"] if claims else [b"1.0", b"seated", b"e", b"me", b"0.1", b"0.1"])

    async def execute(self, *, raise_on_error: bool) -> list[list[bytes]]:
        await asyncio.sleep(self.command_s * len(self.answers))
        return self.answers


async def burst(calls: int, command_s: float) -> tuple[list[Reply | None], list[Notice]]:
    """Let so many calls come in one turn of the loop; returns what they were answered, and what was told."""
    answers: asyncio.Queue[Reply | None] = asyncio.Queue()
    told: list[Notice] = []

    def answered(_: Command, reply: Reply | None) -> None:
        answers.put_nowait(reply)

    scripts = Scripts(lease_ms=5000, keep_ms=30_000, name=lambda key: key)
    courier = Courier(
        connect=lambda: SteadyStore(command_s), scripts=scripts, me=ME, timeout_s=TIMEOUT_S, answered=answered, tell=told.append
    )
    courier.open()
    await courier.up.wait()
    for i in range(calls):
        courier.send(Join(BatchKey("k"), Ticket(f"t{i}"), ME, Epoch(f"e{i}"), Plan(max_wait_s=0.1, max_size=5), f"d{i}"))
    async with asyncio.timeout(60):
        replies = [await answers.get() for _ in range(calls)]
    await courier.aclose(1.0)
    return replies, told


@pytest.mark.parametrize("calls", [1, 128, 1000])
def test_a_burst_is_no_reason_to_think_that_the_store_is_gone(calls: int) -> None:
    replies, told = run(burst(calls, command_s=0.001))
    assert [type(reply) for reply in replies] == [Seated] * calls
    assert not [notice for notice in told if isinstance(notice, StoreDown)]
    assert sum(notice.commands for notice in told if isinstance(notice, RoundTrip)) == calls


def test_a_store_that_is_slower_than_its_limit_is_gone_for_all_who_wait_and_told_so_once() -> None:
    replies, told = run(burst(100, command_s=TIMEOUT_S * 1.5))
    assert replies == [None] * 100
    assert [notice for notice in told if isinstance(notice, StoreDown)] == [StoreDown("TimeoutError")]
