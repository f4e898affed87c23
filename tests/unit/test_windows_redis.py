"""What replicas say through a store that may read along and lie, and by whose clock: no server is asked."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import errors
from proxy.errors import ProxyError, UpstreamError, UpstreamRejectedError
from proxy.interfaces import Delivery
from proxy.model import Alone, Batch, BatchKey, CallId, Completed, Failed, Lesson, Merged, Outcome, Refused, Secret, Usage
from proxy.policy import AddedSeconds, FieldCheck, MergePolicy, WindowPolicy
from proxy.windows.protocol import Entry, Epoch, ReplicaId, Ticket
from proxy.windows.redis.batches import Batches
from proxy.windows.redis.callers import Callers
from proxy.windows.redis.clock import StoreClock
from proxy.windows.redis.codec import Codec, UnreadableError
from proxy.windows.redis.link import connect, problem
from proxy.windows.replica import Dispatch
from proxy.windows.seats import Seat
from tests.make import make_caller, make_lesson, make_text_lesson

CODEC = Codec(b"secret", b"config")
KEY, EPOCH, TICKET = BatchKey("key-0"), Epoch("e"), Ticket("t")
MERGED = Merged("b", 3)  # pyright: ignore[reportArgumentType]

ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ProxyError)]


@pytest.mark.parametrize(
    "lesson",
    [
        make_lesson(),
        make_text_lesson(user=None, scope="identical", token_limit=700, token_limit_field="max_tokens", stream=True, include_usage=True),
        make_lesson(
            checks={"content": FieldCheck(5, 10, required=True)},
            window=WindowPolicy(7, 3, "fixed", 9),
            merge=MergePolicy("tool", AddedSeconds(1.5, 2.5), 3.5, 4.5),
            expect=3,
            max_wait_ms=5,
            deadline_s=1.25,
            retry_count=2,
            deterministic=True,
        ),
    ],
)
def test_a_lesson_comes_out_as_it_went_in(lesson: Lesson) -> None:
    assert CODEC.open_lesson(CODEC.seal_lesson(lesson, TICKET), lesson.key, TICKET) == lesson


@pytest.mark.parametrize(
    "outcome",
    [
        Completed(CallId("c"), '{"title": "Ü"}', "m", Usage(1, 2, 3, 4), True, 5, MERGED),
        Failed(CallId("c"), "schema", Usage(1), MERGED),
        Alone("alone"),
    ],
)
def test_an_outcome_comes_out_as_it_went_in(outcome: Outcome) -> None:
    assert CODEC.open_outcome(CODEC.seal_outcome(outcome, KEY, EPOCH, TICKET), KEY, EPOCH, TICKET) == outcome


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_keeps_its_kind_and_all_that_a_caller_is_told(kind: type[ProxyError]) -> None:
    error = kind("what is wrong", code="c", param="p", retry_after_s=1.5, should_retry=False)
    if isinstance(error, UpstreamError):
        error.upstream_status, error.detail = 418, {"message": "theirs", "code": None}
    outcome = CODEC.open_outcome(CODEC.seal_outcome(Refused(CallId("c"), error, MERGED), KEY, EPOCH, TICKET), KEY, EPOCH, TICKET)
    assert isinstance(outcome, Refused)
    assert (type(outcome.error), vars(outcome.error), outcome.error.body()) == (kind, vars(error), error.body())
    assert outcome.error.http_status == error.http_status


def test_an_error_that_this_release_does_not_know_is_upstreams_word() -> None:
    class NewError(ProxyError):
        pass

    sealed = CODEC.seal_outcome(Refused(CallId("c"), NewError("x"), MERGED), KEY, EPOCH, TICKET)
    outcome = CODEC.open_outcome(sealed, KEY, EPOCH, TICKET)
    assert isinstance(outcome, Refused)
    assert type(outcome.error) is UpstreamRejectedError


@pytest.mark.parametrize(
    ("codec", "key", "epoch", "ticket"),
    [
        (Codec(b"other", b"config"), KEY, EPOCH, TICKET),
        (Codec(b"secret", b"other"), KEY, EPOCH, TICKET),
        (CODEC, BatchKey("key-1"), EPOCH, TICKET),
        (CODEC, KEY, Epoch("f"), TICKET),
        (CODEC, KEY, EPOCH, Ticket("u")),
        (CODEC, KEY, Epoch("et"), Ticket("")),
    ],
    ids=["secret", "configuration", "key", "epoch", "ticket", "parts that run into each other"],
)
def test_what_was_sealed_for_another_place_does_not_open(codec: Codec, key: BatchKey, epoch: Epoch, ticket: Ticket) -> None:
    with pytest.raises(UnreadableError):
        codec.open_outcome(CODEC.seal_outcome(Alone("x"), KEY, EPOCH, TICKET), key, epoch, ticket)


def test_a_lesson_is_no_outcome_and_one_of_another_key_is_nobodys() -> None:
    sealed = CODEC.seal_lesson(make_lesson(), TICKET)
    with pytest.raises(UnreadableError):
        CODEC.open_outcome(sealed, KEY, EPOCH, TICKET)
    with pytest.raises(UnreadableError):
        CODEC.open_lesson(CODEC.seal_lesson(make_lesson(key=BatchKey("other")), TICKET), KEY, TICKET)


@given(data=st.binary(max_size=60), at=st.integers(0, 200))
def test_what_was_altered_cut_or_made_up_does_not_open(data: bytes, at: int) -> None:
    sealed = CODEC.seal_outcome(Alone("alone"), KEY, EPOCH, TICKET)
    place = at % len(sealed)
    altered = sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :]
    for wrong in (data, altered, sealed[:place], sealed + b"x"):
        with pytest.raises(UnreadableError):
            CODEC.open_outcome(wrong, KEY, EPOCH, TICKET)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"kind": "completed"}', b'{"kind": "refused"}', b'{"kind": "x"}', b"{", b"7"])
def test_what_another_make_sealed_is_unreadable_and_harms_nothing(content: bytes) -> None:
    sealed = CODEC._seal(content, b"outcome", KEY, EPOCH, TICKET)
    with pytest.raises(UnreadableError):
        CODEC.open_outcome(sealed, KEY, EPOCH, TICKET)
    lesson = CODEC._seal(content, b"lesson", KEY, TICKET)
    with pytest.raises(UnreadableError):
        CODEC.open_lesson(lesson, KEY, TICKET)


def test_what_cannot_be_written_down_is_not_shared() -> None:
    with pytest.raises(UnreadableError):
        CODEC.seal_lesson(make_lesson(body={"temperature": object()}), TICKET)


def test_names_tell_nothing_and_differ_with_secret_and_configuration() -> None:
    names = {Codec(secret, config).name(KEY) for secret in (b"a", b"b") for config in (b"c", b"d")}
    assert len(names) == 4
    assert all(KEY not in name and len(name) == 24 for name in names)
    assert CODEC.name(KEY) == Codec(b"secret", b"config").name(KEY)


def test_identical_lessons_of_a_window_are_known_as_such_by_none_without_the_secret() -> None:
    one, twin, other = make_lesson(), make_lesson(id=CallId("call-1")), make_lesson(identity_digest="identity-1")
    elsewhere = make_lesson(key=BatchKey("key-1"))
    assert CODEC.twins(one) == CODEC.twins(twin)
    told = {CODEC.twins(one), CODEC.twins(other), CODEC.twins(elsewhere), Codec(b"another", b"config").twins(one), one.identity_digest}
    assert len(told) == 5


def test_a_replica_never_thinks_that_the_stores_clock_shows_more_than_it_does() -> None:
    clock = StoreClock(0.05)
    assert clock.shows(1.0) is None
    clock.learn(1000.0, 1.01)
    assert clock.shows(1.01) == 1000.0
    # a reply that took longer teaches nothing; one that came quicker does
    clock.learn(1000.99, 2.04)
    assert clock.shows(2.04) == pytest.approx(1001.03, abs=0.002)
    clock.learn(1002.0, 3.001)
    assert clock.shows(3.001) == 1002.0
    # it was set back, or is that of another server
    clock.learn(500.0, 4.0)
    assert clock.shows(4.0) == 500.0
    assert (clock.shows(104.0) or 0) < 600.0


@given(drift=st.floats(-0.0009, 0.0009), delays=st.lists(st.tuples(st.floats(0, 0.04), st.floats(0.001, 100)), min_size=1, max_size=50))
def test_a_clock_that_goes_wrong_a_little_is_followed(drift: float, delays: list[tuple[float, float]]) -> None:
    clock, now = StoreClock(0.05), 0.0
    for on_its_way_s, pause_s in delays:
        now += pause_s
        clock.learn(5000 + now * (1 + drift), now + on_its_way_s)
        shown = clock.shows(now + on_its_way_s + 0.05)
        assert shown is not None
        assert shown <= 5000 + (now + on_its_way_s + 0.05) * (1 + drift) + 1e-6


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://user:p%40ss@host:6380/3",
        "rediss://host?ssl_cert_reqs=none",
        "unix:///run/redis.sock",
        "redis+cluster://a:7000,b:7001",
        "rediss+cluster://u:p@a,b:1/0",
    ],
)
def test_addresses_that_a_client_understands(url: str) -> None:
    assert problem(url) is None


@pytest.mark.parametrize(
    "url", ["", "localhost:6379", "http://host", "redis+sentinel://a", "redis://host:port", "redis+cluster://a:x", "redis+cluster://a/3"]
)
def test_addresses_that_no_client_understands_are_told_without_their_password(url: str) -> None:
    told = problem(url.replace("//", "//user:sesame@", 1))
    assert told is not None
    assert "sesame" not in told


def test_a_clusters_address_names_its_nodes_and_one_login_for_all() -> None:
    client = connect("rediss+cluster://u:p%40@a:7000,b/0", 0.05)
    nodes = client.nodes_manager.startup_nodes  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
    assert set(nodes) == {"a:7000", "b:6379"}  # pyright: ignore[reportUnknownArgumentType]
    kwargs = client.connection_kwargs  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
    assert (kwargs["username"], kwargs["password"]) == ("u", "p@")


def test_a_lesson_has_no_credential_to_be_shared() -> None:
    assert not {"caller", "bearer", "headers", "key_digest"} & set(Lesson.__slots__)
    assert replace(make_lesson(), user="x") != make_lesson()


@pytest.mark.parametrize("bearer", [None, Secret("sk-of-one-who-left")])
async def test_a_batch_never_goes_with_the_credential_of_somebody_who_has_left(bearer: Secret | None) -> None:
    """Also where a caller left a turn of the loop before its window's lessons came, and the machine could not know."""
    sent: list[Batch] = []
    brought: list[tuple[str, Outcome]] = []

    async def dispatch(batch: Batch, delivery: Delivery) -> None:
        sent.append(batch)

    callers = Callers()
    batches = Batches(
        dispatch,
        callers,
        CODEC,
        ReplicaId("me"),
        wanted=lambda _epoch, _ticket: True,
        bring=lambda _, ticket, outcome: brought.append((ticket, outcome)),
        ended=lambda _: None,
    )
    waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    callers.add(TICKET, Seat(make_lesson(), make_caller(bearer=bearer), [waiter]))
    waiter.cancel()
    lessons = [make_lesson(id=CallId(name)) for name in "xy"]
    others = [Entry(Ticket(one.id), ReplicaId("b"), CODEC.seal_lesson(one, Ticket(one.id))) for one in lessons]
    off = Dispatch(EPOCH, KEY, (Entry(TICKET, ReplicaId("me")), *others), "time", make_caller(bearer=bearer))
    size = batches.send_off(off, 0.0)
    await batches.aclose()
    if bearer:
        assert (size, sent) == (0, [])
        assert brought == [(name, Alone("taken_back:leader_left")) for name in "xy"]
    else:
        assert size == 2
    assert callers.everyone() == []
