"""The scripts on a real server against the model of the store: the same commands, the same answers and messages.

Every script answers with the server's clock, and the model is given that moment: so both live in one time.
"""

from __future__ import annotations

import time
from itertools import count
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from proxy.model import BatchKey, Plan
from proxy.windows.entrants import refusal
from proxy.windows.protocol import (
    Abandon,
    Beat,
    Claim,
    Command,
    Epoch,
    Join,
    Message,
    ReplicaId,
    Reply,
    Seated,
    Settle,
    Ticket,
    Watch,
    Withdraw,
)
from proxy.windows.redis.scripts import CHANNEL, PREFIX, Scripts, arguments, message_of, reply_of
from proxy.windows.store import Store
from tests.redis_server import RedisServer

LEASE_MS = 30
KEEP_MS = 40
SHORT_S = 0.005
OVER_S = 0.045
"""Longer than lease and keeping: what has its time is gone."""
REPLICAS = [ReplicaId(name) for name in ("anna", "bert", "carl")]
NAMES = count()

PLANS = st.builds(
    Plan,
    max_wait_s=st.sampled_from([0.003, 0.01, 5.0]),
    max_size=st.integers(2, 4),
    expect=st.none() | st.integers(2, 6),
    lesson_s=st.sampled_from([0.0, 2.0, 5.1]),
    max_added_s=st.sampled_from([0.0, 4.0, 10.3, float("inf")]),
    tokens=st.sampled_from([0, 100, 700]),
    max_tokens=st.sampled_from([None, 1500, 2000]),
    streaming=st.booleans(),
    deadline_s=st.none() | st.sampled_from([3.0, 6.7, 30.0]),
    idle_s=st.none() | st.sampled_from([0.0, 0.004, 1.0]),
)


class Server:
    """The scripts, as a store with the model's face."""

    def __init__(self, url: str) -> None:
        self.redis: Any = redis.Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]
        self.ears = self.redis.pubsub(ignore_subscribe_messages=True)
        self.ears.subscribe(*(CHANNEL + replica for replica in REPLICAS))
        self.run = run = f"{next(NAMES)}-{time.time_ns()}"
        self.scripts = Scripts(lease_ms=LEASE_MS, keep_ms=KEEP_MS, name=lambda key: f"{run} {key}")

    def apply(self, command: Command) -> tuple[float, Reply, list[tuple[ReplicaId, Message]]]:
        script = self.scripts.script(command)
        answer: Any = self.redis.eval(script.text, 1, self.scripts.head(command), *arguments(command))
        now, reply = reply_of(answer)
        # what was published by the time of the answer is in the socket behind this mark
        mark = f"mark {next(NAMES)}".encode()
        self.redis.publish(CHANNEL + REPLICAS[0], mark)
        mail: list[tuple[ReplicaId, Message]] = []
        while True:
            heard: Any = self.ears.get_message(timeout=2.0)
            if heard is None:
                # the answer to a subscription
                continue
            if heard["data"] == mark:
                return now, reply, mail
            message = message_of(heard["data"])
            assert message is not None
            mail.append((ReplicaId(heard["channel"].decode().removeprefix(CHANNEL)), message))

    def close(self) -> None:
        self.ears.close()
        self.redis.close()


REPLICA = st.sampled_from(REPLICAS)
SEAT = st.integers(0, 99)
"""Any of the calls that were seated before."""
JOINS = st.fixed_dictionaries(
    {
        "plan": PLANS.filter(lambda plan: refusal(plan) is None),
        "key": st.sampled_from("kl").map(BatchKey),
        "owner": REPLICA,
        "twin": st.integers(0, 1),
        "deterministic": st.booleans(),
        "late": st.sampled_from([None, None, None, -1.0, 1e6]),
    }
)
STEPS = st.one_of(
    JOINS.map(lambda wanted: ("join", wanted)),
    JOINS.map(lambda wanted: ("join", wanted)),
    st.tuples(st.just("claim"), SEAT, st.none() | REPLICA, st.sampled_from(["time", "drain"])),
    st.tuples(st.just("withdraw"), SEAT, st.booleans()),
    st.tuples(st.just("watch"), SEAT),
    st.tuples(st.just("settle"), SEAT, REPLICA),
    st.tuples(st.just("beat"), SEAT, st.none() | REPLICA),
    st.tuples(st.just("abandon"), SEAT, REPLICA),
    st.tuples(st.just("time passes"), st.sampled_from([SHORT_S, SHORT_S, OVER_S])),
)
"""What is drawn does not depend on what happens: only so can a history be told again, though its time is real."""


class History:
    """Commands by replicas that may know anything of each other, while time passes."""

    def __init__(self, url: str) -> None:
        self.server = Server(url)
        self.model = Store(lease_s=LEASE_MS / 1000, keep_s=KEEP_MS / 1000)
        self.seats: list[tuple[BatchKey, Epoch, Ticket]] = []

    def play(self, step: tuple[Any, ...]) -> None:
        match step:
            case "join", wanted:
                self.join(**wanted)
            case "time passes", seconds:
                time.sleep(seconds)
            case _ if self.seats:
                self.both(self.command(str(step[0]), self.seats[int(step[1]) % len(self.seats)], list(step[2:])))
            case _:
                pass

    def command(self, kind: str, seat: tuple[BatchKey, Epoch, Ticket], rest: list[Any]) -> Command:
        """Give most commands the leader or owner that there is."""
        key, epoch, ticket = seat
        window, batch = self.model._windows.get(epoch), self.model._batches.get(epoch)
        match kind, rest:
            case "claim", [leader, closed_by]:
                return Claim(key, epoch, leader or (window.leader if window else REPLICAS[0]), closed_by)
            case "withdraw", [leave]:
                return Withdraw(key, epoch, ticket, leave=leave)
            case "watch", _:
                return Watch(key, epoch, ticket)
            case "settle", [owner]:
                known = batch.owners.get(ticket) if batch else None
                return Settle(key, epoch, ticket, known or owner, b"outcome \0\r\n")
            case "beat", [leader]:
                return Beat(key, epoch, leader or (batch.leader if batch else REPLICAS[0]))
            case _, [leader]:
                return Abandon(key, epoch, leader)
            case _:
                raise AssertionError(kind)

    def join(self, plan: Plan, key: BatchKey, owner: ReplicaId, twin: int, late: float | None, *, deterministic: bool) -> None:
        ticket = Ticket(f"t{next(NAMES)}")
        join = Join(
            key,
            ticket,
            owner,
            Epoch(f"e{ticket}"),
            plan,
            f"{twin}{deterministic}",
            deterministic=deterministic,
            payload=f"lesson {ticket} \r\n\0ü".encode(),
            valid_until=None if late is None else time.time() + late,
        )
        reply = self.both(join)
        if isinstance(reply, Seated):
            self.seats.append((key, reply.epoch, ticket))

    def both(self, command: Command) -> Reply:
        self.keep_clear_of_boundaries()
        now, reply, mail = self.server.apply(command)
        expected, told = self.model.apply(command, now)
        assert reply == expected, command
        # an order among several owners is nobody's promise
        assert sorted(map(repr, mail)) == sorted(map(repr, told)), command
        return reply

    def keep_clear_of_boundaries(self) -> None:
        """The server ends things by the millisecond, the model exactly: no command comes just then."""
        ends = [batch.expires for batch in self.model._batches.values()] + [expires for _, expires in self.model._slots.values()]
        if any(-0.002 < end - time.time() < 0.004 for end in ends):
            time.sleep(0.007)


def joining(owner: int, **plan: Any) -> tuple[Any, ...]:
    bounds: dict[str, Any] = {"max_wait_s": 5.0, "max_size": 4} | plan
    wanted = {"plan": Plan(**bounds), "key": BatchKey("k"), "owner": REPLICAS[owner], "twin": 0, "deterministic": False, "late": None}
    return ("join", wanted)


LED = REPLICAS[0]
TOLD: dict[str, list[tuple[Any, ...]]] = {
    "an outcome for a call that left": [
        *(joining(owner) for owner in (0, 1, 2)),
        ("claim", 0, None, "time"),
        ("withdraw", 1, True),
        ("withdraw", 1, True),
        ("settle", 1, LED),
        ("settle", 2, LED),
        ("withdraw", 2, True),
        ("beat", 0, None),
        ("watch", 1),
        ("watch", 2),
    ],
    "the rest of an announcement, in time": [joining(i % 3, max_size=3, expect=5) for i in range(5)],
    "the rest of an announcement, too late": [
        *(joining(i, max_size=2, expect=4, max_wait_s=0.03) for i in range(2)),
        ("time passes", OVER_S),
        *(joining(i, max_size=3, expect=4) for i in range(2)),
    ],
    "a batch without a beat": [joining(0), joining(1), ("claim", 0, None, "time"), ("time passes", OVER_S), ("watch", 1), ("beat", 0, LED)],
    "an outcome that nobody fetches": [
        *(joining(owner) for owner in (0, 1)),
        ("claim", 0, None, "time"),
        ("settle", 1, LED),
        ("watch", 1),
        ("time passes", OVER_S),
        ("watch", 1),
    ],
    "a window that nobody claims": [
        *(joining(owner, max_wait_s=0.003) for owner in (0, 1)),
        ("time passes", OVER_S),
        ("withdraw", 0, False),
        joining(2),
        ("claim", 0, LED, "time"),
    ],
    "a window to which nobody came": [joining(0), joining(1, idle_s=0.004), ("time passes", SHORT_S), ("claim", 0, None, "time")],
    "a window that closed while somebody came": [
        joining(0, idle_s=0.004),
        ("time passes", SHORT_S),
        joining(1),
        ("claim", 0, None, "time"),
    ],
    "a claim by another": [joining(0), joining(1), ("claim", 0, REPLICAS[1], "time"), ("claim", 0, LED, "drain")],
}


@pytest.mark.parametrize("steps", TOLD.values(), ids=TOLD.keys())
def test_the_scripts_tell_these_stories_as_the_model_does(redis_server: RedisServer, steps: list[tuple[Any, ...]]) -> None:
    played(redis_server, steps)


@settings(
    max_examples=100,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(STEPS, min_size=5, max_size=40))
def test_the_scripts_do_what_the_model_does(redis_server: RedisServer, steps: list[tuple[Any, ...]]) -> None:
    played(redis_server, steps)


def played(redis_server: RedisServer, steps: list[tuple[Any, ...]]) -> None:
    history = History(redis_server.url)
    try:
        for step in steps:
            history.play(step)
    finally:
        history.server.close()


def test_everything_a_script_leaves_behind_has_an_end(redis_server: RedisServer) -> None:
    server = Server(redis_server.url)
    for key in "kl":
        for i in range(3):
            ticket = Ticket(f"{key}{i}")
            plan = Plan(max_wait_s=5.0, max_size=3 if key == "l" else 9, expect=5)
            server.apply(Join(BatchKey(key), ticket, REPLICAS[i], Epoch(f"e{key}"), plan, "d", payload=b"p"))
    server.apply(Claim(BatchKey("l"), Epoch("el"), REPLICAS[0], "time"))
    server.apply(Settle(BatchKey("l"), Epoch("el"), Ticket("l1"), REPLICAS[1], b"o"))
    keys: Any = server.redis.keys(f"{PREFIX}{{{server.run} *")
    assert len(keys) >= 5
    # -2: its time was over meanwhile; -1 would be for ever
    assert all(server.redis.pttl(name) != -1 for name in keys)
    server.close()


@pytest.mark.parametrize("data", [b"", b"due", b"due e x", b"due e nan", b"\xff\xfe", b"claimed a b", b"mark 7"])
def test_what_no_script_says_is_no_message(data: bytes) -> None:
    assert message_of(data) is None
