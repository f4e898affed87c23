"""What is told of calls and batches: every event in log and metrics, no secret in either, and no listener harms a call."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import orjson
import pytest

from proxy.model import BatchId, CallId, Usage
from proxy.observe.events import (
    BatchFinished,
    CallFinished,
    Event,
    Faulted,
    LessonWasted,
    MergingRested,
    MergingResumed,
    StateChanged,
    StoreAsked,
    WindowShared,
)
from proxy.observe.faults import fault
from proxy.observe.hub import Hub
from proxy.observe.log import Form, Level, Log
from proxy.observe.metrics import Metrics

SITE = "0123456789abcdef" * 2
CALL = CallFinished(
    call_id=CallId("c1"),
    path="/v1/chat/completions",
    model="gpt",
    status=200,
    way="passed",
    reason="not_a_lesson",
    error=None,
    rule=None,
    would_merge=False,
    stream=False,
    key=None,
    key_name=None,
    batch_id=None,
    batch_size=0,
    wait_ms=0.0,
    total_ms=12.34,
    usage=None,
    estimated=False,
    input_tokens_saved=0,
)
MERGED = replace(
    CALL,
    way="merged",
    reason=None,
    rule="create_lesson tool",
    key="0123456789ab",
    key_name="app-a",
    stream=True,
    batch_id=BatchId("b1"),
    batch_size=3,
    wait_ms=55.5,
    usage=Usage(100, 200, 20, 10),
    estimated=True,
    input_tokens_saved=90,
)
BATCH = BatchFinished(
    batch_id=BatchId("b1"),
    model="gpt",
    deployment="gpt#0",
    provider="openai",
    carrier="tool",
    closed_by="time",
    size=3,
    completed=2,
    failed=(("schema", 1),),
    refused=0,
    left=0,
    dropped=(("doubled", 2),),
    usage=Usage(300, 400),
    usage_estimated=False,
    unassigned=Usage(-3, 2),
    wasted_completion=7,
    input_tokens_saved=-20,
    saved_usd=-0.25,
    first_token_s=0.25,
    total_s=1.5,
    retries=1,
    error=None,
)
EVENTS: tuple[Event, ...] = (
    CALL,
    MERGED,
    BATCH,
    LessonWasted("gpt", Usage(40, 60), -90, -0.125),
    MergingRested("gpt", None, "rejected", 60.0, 1),
    MergingResumed("gpt", SITE),
    StateChanged("ready"),
    Faulted("edge", "KeyError", ("a.py:1 f",), CallId("c1")),
)


def written(event: object, *, form: Form = "json", level: Level = "info") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="utf-8")
    Log(stream, form=form, level=level)(event)
    stream.flush()
    return raw.getvalue().decode()


def line(event: object) -> dict[str, Any]:
    text = written(event)
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return orjson.loads(text)


def test_every_event_is_one_line_with_its_action() -> None:
    assert [line(event)["action"] for event in EVENTS] == ["call", "call", "batch", "wasted", "rested", "resumed", "state", "fault"]
    assert all({"time", "level"} <= set(line(event)) for event in EVENTS)


def test_a_call_that_was_no_lesson_has_a_short_line() -> None:
    told = line(CALL)
    del told["time"]
    assert told == {
        "level": "info",
        "action": "call",
        "call": "c1",
        "path": "/v1/chat/completions",
        "model": "gpt",
        "status": 200,
        "way": "passed",
        "total_ms": 12.3,
        "reason": "not_a_lesson",
    }


def test_a_call_that_failed_tells_the_errors_code_beside_why_it_went_alone() -> None:
    failed = replace(CALL, status=502, way="alone", reason="no_company", error="upstream_unreadable")
    told = line(failed)
    assert (told["reason"], told["error"]) == ("no_company", "upstream_unreadable")


def test_a_merged_call_tells_its_batch_its_wait_and_its_tokens() -> None:
    told = line(MERGED)
    wanted = {"batch": "b1", "batch_size": 3, "wait_ms": 55.5, "key": "0123456789ab", "key_name": "app-a", "rule": "create_lesson tool"}
    wanted |= {"prompt_tokens": 100, "completion_tokens": 200, "reasoning_tokens": 20, "cached_tokens": 10, "estimated": True}
    wanted |= {"input_tokens_saved": 90, "stream": True}
    assert wanted.items() <= told.items()


def test_a_batch_tells_what_failed_and_what_was_dropped() -> None:
    told = line(BATCH)
    wanted = {"failed": {"schema": 1}, "dropped": {"doubled": 2}, "unassigned_prompt": -3, "retries": 1, "closed_by": "time", "size": 3}
    assert wanted.items() <= told.items()
    assert "error" not in told
    assert line(replace(BATCH, error="rate_limit_exceeded"))["level"] == "warning"


@pytest.mark.parametrize("form", ["json", "console"])
def test_what_a_caller_wrote_does_nothing_to_a_terminal_or_to_the_lines(form: Form) -> None:
    text = written(replace(CALL, path="/v1/\x1b[2J", model="m\x9b0m"), form=form)
    assert text.count("\n") == 1
    assert text.removesuffix("\n").isprintable()


def test_what_failed_is_told_louder() -> None:
    assert line(replace(CALL, status=503))["level"] == "warning"
    assert line(StateChanged("reload_refused", "why"))["level"] == "error"
    assert line(StateChanged("start_failed", "why"))["level"] == "error"
    assert written(CALL, level="warning") == ""


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_the_console_form_is_greppable_too(event: Event) -> None:
    text = written(event, form="console")
    assert text.count("\n") == 1
    assert line(event)["action"] in text


@pytest.fixture
def foreign_log() -> Generator[io.BytesIO]:
    root, levels = logging.getLogger(), {name: logging.getLogger(name).level for name in ("uvicorn", "LiteLLM", "openai", "aiohttp")}
    handlers, level = root.handlers[:], root.level
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="utf-8", write_through=True)
    Log(stream).adopt_stdlib()
    yield raw
    root.handlers[:], root.level = handlers, level
    for name, former in levels.items():
        logging.getLogger(name).setLevel(former)


def test_a_librarys_record_is_its_first_line_without_an_exceptions_words(foreign_log: io.BytesIO) -> None:
    logger = logging.getLogger("uvicorn.error")
    try:
        _ = int("the secret prompt")
    except ValueError:
        logger.exception("Exception in ASGI application\nfuture: <Task exception=ValueError('the secret prompt')>")
    told = orjson.loads(foreign_log.getvalue())
    assert (told["action"], told["source"], told["message"]) == ("library", "uvicorn.error", "Exception in ASGI application")
    assert told["kind"] == "ValueError"
    assert "test_observe.py" in told["frames"][0]
    assert b"secret" not in foreign_log.getvalue()


def test_libraries_that_quote_requests_are_silent(foreign_log: io.BytesIO) -> None:
    for name in ("LiteLLM", "openai", "httpx"):
        logging.getLogger(name).critical("POST /v1 {'prompt': 'secret'}")
    logging.getLogger("uvicorn").info("Started server process")
    assert foreign_log.getvalue() == b""


def test_a_fault_tells_kind_cause_and_frames_and_never_the_words() -> None:
    def fails() -> None:
        try:
            _ = dict[str, int]()["secret"]
        except KeyError as error:
            raise ValueError("secret") from error

    with pytest.raises(ValueError, match="secret") as caught:
        fails()
    told = fault("edge", caught.value)
    assert told.kind == "ValueError from KeyError"
    assert told.frames[-1].endswith(" fails")
    assert "secret" not in repr(told)


def test_a_listener_that_raises_is_counted_told_of_once_and_harms_nobody() -> None:
    heard: list[object] = []

    def broken(event: object) -> None:
        raise ZeroDivisionError

    def listening(event: object) -> None:
        heard.append(event)

    hub = Hub([broken, listening])
    hub(CALL)
    hub(MERGED)
    assert [type(event) for event in heard] == [Faulted, CallFinished, CallFinished]
    assert hub.failures == 3  # both events, and the one that told of it


def samples(metrics: Metrics) -> dict[str, float]:
    text = metrics.render()[0].decode()
    pairs = (line.rpartition(" ") for line in text.splitlines() if line.startswith("lesson_proxy_"))
    return {name.removeprefix("lesson_proxy_"): float(value) for name, _, value in pairs}


def counted(*events: Event) -> dict[str, float]:
    metrics = Metrics(["gpt"])
    for event in events:
        metrics(event)
    return samples(metrics)


def test_calls_are_counted_by_way_status_and_model() -> None:
    told = counted(CALL, CALL, replace(CALL, status=404, way="refused"), MERGED)
    assert told['calls_total{model="gpt",status="2xx",way="passed"}'] == 2
    assert told['calls_total{model="gpt",status="4xx",way="refused"}'] == 1
    assert told['call_seconds_count{way="passed"}'] == 2
    assert told["wait_seconds_count"] == 1
    assert told['tokens_total{direction="output"}'] == 200


def test_resends_and_single_lessons_are_counted_by_reason() -> None:
    resent = replace(MERGED, way="resent", reason="resent:schema")
    alone = replace(MERGED, way="alone", reason="alone", would_merge=True)
    told = counted(resent, alone)
    assert told['resent_total{reason="schema"}'] == 1
    assert told['lessons_single_total{reason="alone"}'] == 1
    assert told["would_merge_total"] == 1


def test_a_batch_is_counted_whole() -> None:
    told = counted(BATCH, replace(BATCH, error="rate_limit_exceeded", refused=2, left=1))
    assert told['batches_total{closed_by="time",size="3"}'] == 2
    assert told['batch_lessons_failed_total{reason="schema"}'] == 2
    assert told['batch_entries_dropped_total{reason="doubled"}'] == 4
    assert told['batch_errors_total{code="rate_limit_exceeded"}'] == 1
    assert (told["batch_lessons_refused_total"], told["batch_lessons_left_total"]) == (2, 1)
    assert told["tokens_wasted_total"] == 14
    assert told['batch_tokens_total{direction="input"}'] == 600
    assert (told["input_tokens_saved"], told['tokens_unassigned{direction="input"}']) == (-40, -6)
    assert told["saved_usd"] == -0.5


def test_money_is_not_made_up_where_no_price_is_known() -> None:
    assert counted(replace(BATCH, saved_usd=None))["saved_usd"] == 0
    assert line(replace(BATCH, saved_usd=None))["saved_usd"] is None
    assert line(BATCH)["saved_usd"] == -0.25


def test_a_lesson_kept_in_vain_takes_back_what_its_batch_counted() -> None:
    told = counted(BATCH, LessonWasted("gpt", Usage(40, 60), -90, -0.125), LessonWasted("gpt", Usage(1, 2), -3, None))
    assert told["ahead_wasted_total"] == 2
    assert (told["input_tokens_saved"], told["tokens_wasted_total"], told["saved_usd"]) == (-113, 69, -0.375)
    assert (told['tokens_unassigned{direction="input"}'], told['tokens_unassigned{direction="output"}']) == (38, 64)


def test_whose_merging_rests_is_told_in_the_log_and_counted_by_its_kind() -> None:
    rested = MergingRested("gpt", SITE, "no_saving", 60.0, 1)
    assert {"action": "rested", "site": SITE, "reason": "no_saving"}.items() <= line(rested).items()
    assert "site" not in line(replace(rested, site=None))
    told = counted(rested, replace(rested, site=None), MergingResumed("gpt", SITE), MergingResumed("gpt", None))
    assert told['merging_rested_total{model="gpt",reason="no_saving",scope="site"}'] == 1
    assert told['merging_rested_total{model="gpt",reason="no_saving",scope="model"}'] == 1
    assert told['merging_resumed_total{model="gpt",scope="site"}'] == 1
    assert counted(replace(rested, site=SITE[:16]))['merging_rested_total{model="gpt",reason="no_saving",scope="app"}'] == 1


def test_the_rest_is_counted_too() -> None:
    told = counted(*EVENTS)
    assert told['merging_rested_total{model="gpt",reason="rejected",scope="model"}'] == 1
    assert told['states_total{state="ready"}'] == 1
    assert told['faults_total{where="edge"}'] == 1


def test_what_happens_in_shared_windows_is_counted_and_a_change_is_one_line() -> None:
    events = [
        StateChanged("sharing"),
        WindowShared("led", size=3, others=2),
        WindowShared("joined_elsewhere"),
        WindowShared("taken_back", "leader_lost"),
        WindowShared("late"),
        StoreAsked(3, 0.001),
        StateChanged("sharing_lost", "TimeoutError"),
    ]
    told = counted(*events)
    assert {told[name] for name in ("windows_led_total", "calls_joined_elsewhere_total", "outcomes_late_total")} == {1}
    assert told["lessons_led_for_others_total"] == 2
    assert told['calls_taken_back_total{reason="leader_lost"}'] == 1
    assert (told["store_seconds_count"], told["store_commands_total"]) == (1, 3)
    lines = [line(event) for event in events if written(event)]
    assert [(one["level"], one["state"], one.get("detail")) for one in lines] == [
        ("info", "sharing", None),
        ("warning", "sharing_lost", "TimeoutError"),
    ]


def test_what_comes_from_outside_makes_no_labels_without_end() -> None:
    metrics = Metrics(["gpt"])
    for index in range(1000):
        metrics(replace(CALL, model=f"made-up-{index}"))
        metrics(replace(MERGED, way="alone", reason=f"reason-{index}"))
        metrics(replace(BATCH, failed=((f"check-{index}", 1),), error=f"code-{index}"))
    told = samples(metrics)
    assert told['calls_total{model="*",status="2xx",way="passed"}'] == 1000
    for name in ("lessons_single_total", "batch_lessons_failed_total", "batch_errors_total"):
        values = [value for sample, value in told.items() if sample.startswith(name)]
        assert len(values) <= 65
        assert sum(values) == 1000


def test_a_new_configurations_models_are_counted_by_name_beside_the_old_ones() -> None:
    metrics = Metrics(["gpt"])
    metrics.configure(["new"])
    metrics(replace(CALL, model="new"))
    metrics(CALL)
    told = samples(metrics)
    assert told['calls_total{model="new",status="2xx",way="passed"}'] == 1
    assert told['calls_total{model="gpt",status="2xx",way="passed"}'] == 1


def test_a_gauge_is_read_when_it_is_asked_for() -> None:
    metrics, value = Metrics(), [1.0]
    metrics.gauge("open_windows", "Windows that are open.", lambda: value[0])
    value[0] = 7.0
    assert samples(metrics)["open_windows"] == 7


def test_an_event_of_another_kind_is_a_mistake() -> None:
    with pytest.raises(AssertionError):
        Metrics()("no event")


async def test_lines_of_a_running_loop_are_out_after_its_turn() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(io.BufferedWriter(Raw(raw)), encoding="utf-8")
    log = Log(stream)
    log(CALL)
    log(MERGED)
    assert raw.getvalue() == b""
    await asyncio.sleep(0)
    assert [orjson.loads(line)["call"] for line in raw.getvalue().splitlines()] == ["c1", "c1"]
    log(CALL)
    await asyncio.sleep(0)
    assert len(raw.getvalue().splitlines()) == 3


class Raw(io.RawIOBase):
    """A file whose writes arrive only when they are flushed."""

    def __init__(self, target: io.BytesIO) -> None:
        self._target = target

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._target.write(bytes(data))
