"""The composition: settings become rooms, calls find them, and configurations come and go without harming a call."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from proxy import app
from proxy.app import Proxy, create_app
from proxy.app.house import MakeWindow
from proxy.app.server import Address, Draining, Server
from proxy.app.wiring import access, open_paths, upstream_config, uses_simulated
from proxy.errors import OverloadedError, UnauthorizedError
from proxy.interfaces import Dispatch, Listener
from proxy.model import Call, Held, Lesson, Plan, Reply
from proxy.model import Caller as ModelCaller
from proxy.observe.events import CallFinished, Faulted, LessonWasted, StateChanged
from proxy.settings import Settings, parse
from tests.fakes import FakeUpstream, answer
from tests.make import make_body, make_user_text
from tests.unit.asgi import HELLO, OK, Exchange, ask, start

OPEN: dict[str, Any] = {"model_list": [{"model_name": "*", "litellm_params": {"model": "openai/*", "api_key": "operators"}}]}
LESSON = make_body(
    user="learner",
    messages=[{"role": "system", "content": "You are a patient teacher."}, {"role": "user", "content": make_user_text()}],
)


def settings(**sections: Any) -> Settings:
    return parse(OPEN | sections, env={})


@dataclass
class Heard:
    """A listener that remembers."""

    events: list[object] = field(default_factory=list[object])

    def __call__(self, event: object) -> None:
        self.events.append(event)

    def states(self) -> list[str]:
        return [event.state for event in self.events if isinstance(event, StateChanged) and event.state != "danger"]


class SlowUpstream(FakeUpstream):
    """Answers a lone call when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.came = asyncio.Event()

    async def send(self, call: Call, model: str, *, lesson: bool) -> Reply:
        self.came.set()
        await self.go.wait()
        return OK


@asynccontextmanager
async def running(upstream: FakeUpstream, heard: Listener, make_window: MakeWindow | None = None, **sections: Any) -> AsyncGenerator[Proxy]:
    async with Proxy.running(settings(**sections), [heard], upstream=upstream, make_window=make_window) as proxy:
        proxy.ready()
        yield proxy


async def test_the_application_opens_answers_and_closes_with_its_lifespan() -> None:
    heard = Heard()
    app = create_app(settings(), upstream=FakeUpstream(replies=[OK]), listeners=[heard])
    async with app.lifespan_context(app):
        assert (await ask(app)).json == {"ok": True}
        assert (await ask(app, "GET", "/health/ready", b"")).status == 200
        assert b"lesson_proxy_calls_in_flight 1.0" in (await ask(app, "GET", "/metrics", b"")).body
    assert heard.states() == ["ready", "stopped"]
    assert (await ask(app)).status == 503


async def test_lessons_that_come_together_go_upstream_as_one() -> None:
    heard, upstream = Heard(), FakeUpstream(scripts=[answer])
    async with running(upstream, heard) as proxy:
        answers = await asyncio.gather(*(ask(proxy.edge, body=LESSON) for _ in range(2)))
    assert [one.headers["x-lesson-merged"] for one in answers] == ["true", "true"]
    assert len(upstream.bodies) == 1
    assert [event.way for event in heard.events if isinstance(event, CallFinished)] == ["merged", "merged"]
    texts = [one.json["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] for one in answers]
    assert len(set(texts)) == 2


LONE = Reply(
    200,
    (("content-type", "application/json"),),
    orjson.dumps({"id": "lone", "choices": [], "usage": {"prompt_tokens": 900, "completion_tokens": 100, "total_tokens": 1000}}),
)
LOOPING: dict[str, Any] = {"window": {"max_wait_ms": 0}, "ahead": {"enabled": True}}


async def looped(proxy: Proxy, number: int) -> list[str]:
    """Ask twice for the same lesson, one after the other; returns whether each came out of a batch."""
    asked = {"role": "user", "content": make_user_text(topic=f"Topic {number}")}
    body = {**LESSON, "messages": [LESSON["messages"][0], asked]}
    return [(await ask(proxy.edge, body=body)).headers["x-lesson-merged"] for _ in range(2)]


async def test_a_loop_that_awaits_each_call_is_asked_for_ahead_once_it_is_known() -> None:
    """Off by default; with the setting on, after some loops of two the second call's lesson comes with the first."""
    for lessons, merged in ((LOOPING, ["true", "true"]), ({"window": {"max_wait_ms": 0}}, ["false", "false"])):
        upstream = FakeUpstream(replies=[LONE] * 40, scripts=[answer] * 20)
        async with running(upstream, Heard(), lessons=lessons) as proxy:
            loops = [await looped(proxy, number) for number in range(15)]
            assert loops[0] == ["false", "false"]
            assert loops[-1] == merged
            assert (len(upstream.bodies) > 0) is (merged[0] == "true")


async def test_a_house_that_drains_asks_for_nothing_ahead() -> None:
    """What it would keep, nobody would come for."""
    upstream = FakeUpstream(replies=[LONE] * 60, scripts=[answer] * 30)
    async with running(upstream, Heard(), lessons=LOOPING) as proxy:
        for number in range(15):
            await looped(proxy, number)
        assert await looped(proxy, 16) == ["true", "true"]
        await proxy.drain()
        assert await looped(proxy, 17) == ["false", "false"]


async def test_nothing_that_was_asked_ahead_outlives_its_configuration() -> None:
    """A reload may change where calls go: what was kept is counted as wasted, and the next call asks anew."""
    upstream, heard = FakeUpstream(replies=[LONE] * 60, scripts=[answer] * 30), Heard()
    async with running(upstream, heard, lessons=LOOPING) as proxy:
        for number in range(15):
            await looped(proxy, number)
        body = {**LESSON, "messages": [LESSON["messages"][0], {"role": "user", "content": make_user_text(topic="A new one")}]}
        assert (await ask(proxy.edge, body=body)).headers["x-lesson-merged"] == "true"
        assert b"lesson_proxy_ahead_kept 1.0" in (await ask(proxy.edge, "GET", "/metrics", b"")).body
        batches = len(upstream.bodies)
        await proxy.use(settings(lessons=LOOPING))
        assert (await ask(proxy.edge, body=body)).headers["x-lesson-merged"] == "false"
        assert len(upstream.bodies) == batches
        await asyncio.gather(*proxy._retiring)
        assert any(isinstance(event, LessonWasted) for event in heard.events)
        assert b"lesson_proxy_ahead_wasted_total 1.0" in (await ask(proxy.edge, "GET", "/metrics", b"")).body


async def test_what_is_learned_of_company_knows_whether_windows_are_shared() -> None:
    """With Redis company may come to another process; a reload that takes it away is learned of too. Nothing listens there."""
    redis = {"url": "redis://127.0.0.1:1", "secret": "the same in every process"}
    async with running(FakeUpstream(), Heard(), redis=redis) as proxy:
        company = proxy._lasting.sites._company
        assert company.shared
        await proxy.use(settings())
        assert not company.shared


async def test_where_lessons_are_off_nothing_waits() -> None:
    upstream = FakeUpstream(replies=[OK])
    async with running(upstream, Heard(), lessons={"mode": "off"}) as proxy:
        assert "x-lesson-merged" not in (await ask(proxy.edge, body=LESSON)).headers
    assert [lesson for _, _, lesson in upstream.sent] == [False]


async def test_a_window_of_ones_own_stands_in() -> None:
    @dataclass
    class Refusing:
        dispatch: Dispatch

        async def join(self, lesson: Lesson, plan: Plan, caller: ModelCaller) -> Held:
            raise OverloadedError("not today", retry_after_s=3)

        async def drain(self) -> None: ...

        async def settled(self) -> None: ...

        async def aclose(self) -> None: ...

    async with running(FakeUpstream(), Heard(), Refusing) as proxy:
        refused = await ask(proxy.edge, body=LESSON)
    assert (refused.status, refused.headers["retry-after"]) == (503, "3")


async def test_a_new_configuration_is_for_new_calls_and_old_ones_end_as_they_began() -> None:
    upstream, heard = SlowUpstream(), Heard()
    async with running(upstream, heard) as proxy:
        old = start(proxy.edge, exchange := Exchange(parts=[orjson.dumps(HELLO)]))
        await upstream.came.wait()
        await proxy.use(settings(access={"mode": "keys", "keys": [{"name": "a", "key": "k"}]}))
        assert (await ask(proxy.edge)).status == 401
        # the call of the old house, and the request for this text
        assert b"lesson_proxy_calls_in_flight 2.0" in (await ask(proxy.edge, "GET", "/metrics", b"")).body
        upstream.go.set()
        await old
        assert exchange.status == 200
        assert (await ask(proxy.edge, headers=[("authorization", "Bearer k")])).status == 200
    assert [event for event in heard.events if isinstance(event, Faulted)] == []


async def test_a_configuration_that_can_not_be_opened_changes_nothing() -> None:
    def broken(_dispatch: Dispatch) -> Any:
        raise OSError("no window")

    proxy = Proxy(upstream=FakeUpstream(replies=[OK]))
    await proxy.use(settings())
    front = proxy.edge.front
    proxy._make_window = broken
    with pytest.raises(OSError, match="no window"):
        await proxy.use(settings())
    assert proxy.edge.front is front
    assert (await ask(proxy.edge)).status == 200
    await proxy.aclose()


async def test_draining_closes_windows_at_once_and_later_lessons_go_alone() -> None:
    upstream, heard = FakeUpstream(scripts=[answer], replies=[OK]), Heard()
    async with running(upstream, heard, lessons={"window": {"max_wait_ms": 60_000}}) as proxy:
        exchanges = [Exchange(parts=[orjson.dumps(LESSON)]) for _ in range(2)]
        calls = [start(proxy.edge, exchange) for exchange in exchanges]
        for _ in range(20):
            await asyncio.sleep(0)
        assert b"lesson_proxy_waiting_calls 2.0" in (await ask(proxy.edge, "GET", "/metrics", b"")).body
        await proxy.drain("a test")
        await asyncio.wait_for(asyncio.gather(*calls), 5)
        assert [exchange.headers["x-lesson-merged"] for exchange in exchanges] == ["true", "true"]
        late = await ask(proxy.edge, body=LESSON)
        assert (late.headers["x-lesson-reason"], late.headers["connection"]) == ("draining", "close")
    assert heard.states() == ["ready", "draining", "stopped"]


async def test_a_configuration_that_comes_while_draining_opens_no_window() -> None:
    async with running(FakeUpstream(replies=[OK]), Heard(), lessons={"window": {"max_wait_ms": 60_000}}) as proxy:
        await proxy.drain("a test")
        await proxy.use(settings(lessons={"window": {"max_wait_ms": 60_000}}))
        late = await asyncio.wait_for(ask(proxy.edge, body=LESSON), 5)
    assert late.headers["x-lesson-reason"] == "draining"


async def served(proxy: Proxy, draining: Draining) -> tuple[Server, asyncio.Task[None], str]:
    async def reload() -> None:
        await proxy.use(settings(lessons={"mode": "off"}))

    server = Server(proxy, Address("127.0.0.1", 0), draining)
    server.on_hangup(reload)
    task = asyncio.get_running_loop().create_task(server.serve())
    async with asyncio.timeout(5):
        while not server.started:  # noqa: ASYNC110 - uvicorn tells it no other way
            await asyncio.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    return server, task, f"{host}:{port}"


async def exchange(address: str, request: bytes) -> bytes:
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    told = await reader.read()
    writer.close()
    await writer.wait_closed()
    return told


async def test_a_server_says_where_it_listens_drains_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    """1 it serves; 2 it is told to stop and still serves; 3 the grace is over and it ends by itself."""
    heard = Heard()
    async with Proxy.running(settings(), [heard], upstream=FakeUpstream(replies=[OK])) as proxy:
        server, task, address = await served(proxy, Draining(0.3, 1.0))
        assert f"listens on http://{address}\n" in capsys.readouterr().out
        assert b"200 OK" in await exchange(address, b"GET /health/ready HTTP/1.1\r\nconnection: close\r\n\r\n")
        server.stop()
        await asyncio.sleep(0.05)
        told = await exchange(address, b"GET /health/ready HTTP/1.1\r\n\r\n")
        assert b"503" in told
        assert b"connection: close" in told
        await asyncio.wait_for(task, 5)
        await server.end()
    assert server.forced is None
    assert heard.states() == ["ready", "draining", "stopped"]


async def test_a_second_stop_cuts_what_still_runs() -> None:
    upstream = SlowUpstream()
    async with Proxy.running(settings(), [Heard()], upstream=upstream) as proxy:
        server, task, address = await served(proxy, Draining(60, 60))
        body = orjson.dumps(HELLO)
        head = b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body)
        stuck = asyncio.ensure_future(exchange(address, head + body))
        await upstream.came.wait()
        server.stop()
        server.stop()
        await asyncio.wait_for(task, 5)
        await server.end()
        assert b"503" in await stuck
    assert server.forced is not None


async def test_what_is_dangerous_is_told_at_start_and_at_each_reload() -> None:
    heard = Heard()
    async with Proxy.running(settings(identity={"when_missing": "api_key"}), [heard], upstream=FakeUpstream()) as proxy:
        await proxy.use(settings())
    told = [event.detail for event in heard.events if isinstance(event, StateChanged) and event.state == "danger"]
    assert [detail.split(":")[0] for detail in told] == ["access.mode", "identity.when_missing", "access.mode"]


async def test_a_reload_sets_the_times_of_a_later_stop_and_names_what_waits_for_a_restart() -> None:
    heard, started = Heard(), settings()
    later = settings(drain_grace_seconds=1, drain_seconds=9, log={"level": "error"})
    async with Proxy.running(started, [heard], upstream=FakeUpstream()) as proxy:
        server = Server(proxy, Address("127.0.0.1", 0), Draining(5, 60))
        await app._reload(server, proxy, lambda: later, started)()
    assert server.draining == Draining(1, 9)
    assert [event.detail for event in heard.events if isinstance(event, StateChanged) and event.state == "reloaded"] == [
        "log: takes effect at the next start"
    ]


async def test_a_reload_that_breaks_unforeseen_is_told_and_ends_nothing() -> None:
    heard = Heard()
    async with Proxy.running(settings(), [heard], upstream=FakeUpstream()) as proxy:
        server, task, _ = await served(proxy, Draining(0, 1))

        async def broken() -> None:
            raise ZeroDivisionError

        server._keep(broken)
        await asyncio.sleep(0.01)
        assert [event.where for event in heard.events if isinstance(event, Faulted)] == ["signal"]
        server.stop()
        await asyncio.wait_for(task, 5)


SIMULATED = parse(
    {
        "model_list": [
            {"model_name": "small", "litellm_params": {"model": "simulated/tiny"}},
            {
                "model_name": "big",
                "litellm_params": {"model": "openai/gpt", "api_key": "operators"},
                "model_info": {"lessons": {"force": "required"}},
            },
        ]
    },
    env={},
)


def test_simulated_models_lead_to_the_provider_in_this_process_and_others_do_not() -> None:
    assert uses_simulated(SIMULATED)
    assert not uses_simulated(settings())
    small, big = upstream_config(SIMULATED, ("http://127.0.0.1:1/v1", "random")).entries
    assert small.litellm_params == {"model": "openai/tiny", "api_base": "http://127.0.0.1:1/v1", "api_key": "random"}
    assert (small.owned_by, big.owned_by) == ("simulated", None)
    assert big.litellm_params == {"model": "openai/gpt", "api_key": "operators"}
    assert big.lessons == {"force": "required"}
    assert "operators" not in repr(big)


def test_settings_reach_upstream() -> None:
    config = upstream_config(settings(router_settings={"num_retries": 5, "timeout": 7}, bounds={"upstream_slots": 9}), None)
    assert (config.num_retries, config.timeout_s, config.slots) == (5, 7, 9)


def test_only_configured_keys_open_where_keys_are_asked_for() -> None:
    guarded = access(settings(access={"mode": "keys", "keys": [{"name": "a", "key": "k"}]}), b"d" * 32)
    assert guarded.identify({"authorization": "Bearer k"}).name == "a"
    with pytest.raises(UnauthorizedError):
        guarded.identify({"authorization": "Bearer x"})
    assert access(settings(), b"d" * 32).identify({"authorization": "Bearer x"}).bearer is None


CALLERS = {"model_name": "mine", "litellm_params": {"model": "openai/gpt", "api_key": "caller"}}


def test_only_the_callers_own_key_opens_paths_that_nobody_named() -> None:
    own = parse({"model_list": [CALLERS, *OPEN["model_list"]]}, env={})
    paths = open_paths(own, upstream_config(own, None))
    assert paths.alias("/v1/rerank", "POST", "mine") == "mine"
    assert paths.alias("/v1/rerank", "POST", "operators-model") is None
    assert paths.alias("/v1/files", "GET", "") is None
    assert access(own, b"d" * 32).identify({"authorization": "Bearer x"}).bearer is not None
    everything = parse(
        {"model_list": [CALLERS | {"model_name": "*", "litellm_params": {"model": "openai/*", "api_key": "caller"}}]}, env={}
    )
    assert open_paths(everything, upstream_config(everything, None)).alias("/v1/files", "GET", "") == "*"


def test_named_paths_are_open_by_their_methods() -> None:
    named = settings(passthrough=[{"path": "/v1/files", "methods": ["POST"], "model": "x"}])
    paths = open_paths(named, upstream_config(named, None))
    assert (paths.alias("/v1/files", "POST", ""), paths.alias("/v1/files", "GET", "")) == ("x", None)


async def test_the_embedded_provider_is_named_and_answers() -> None:
    heard = Heard()
    embedded = parse({"model_list": [{"model_name": "*", "litellm_params": {"model": "simulated/*"}}]}, env={})
    async with Proxy.running(embedded, [heard]) as proxy:
        assert heard.states() == ["embedded_provider"]
        told = await ask(proxy.edge, body=HELLO)
        assert told.json["choices"][0]["message"]["content"]
        assert b"lesson_proxy_upstream_slots_taken 0.0" in (await ask(proxy.edge, "GET", "/metrics", b"")).body


async def test_what_was_opened_is_closed_where_the_rest_can_not_be() -> None:
    """The embedded provider's port is free again when a later room fails to open."""
    embedded = parse({"model_list": [{"model_name": "*", "litellm_params": {"model": "simulated/*"}}]}, env={})
    heard = Heard()

    def broken(_dispatch: Dispatch) -> Any:
        raise OSError("no window")

    with pytest.raises(OSError, match="no window"):
        async with Proxy.running(embedded, [heard], make_window=broken):
            pass
    told = next(event for event in heard.events if isinstance(event, StateChanged))
    port = int(told.detail.split(":")[2].split("/")[0])
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", port))
