"""`estimate`: what a log of past calls would have saved, and that the figures are those of the window itself."""

from __future__ import annotations

import asyncio
import io
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from proxy.cli import app
from proxy.cli.estimate.estimating import Estimate, _Order, estimate
from proxy.cli.estimate.log import Lines, Past, _lines, past_calls
from proxy.cli.estimate.prices import Prices
from proxy.cli.estimate.replay import Replay
from proxy.interfaces import Delivery
from proxy.lessons.recognise import Recogniser
from proxy.model import Alone, Batch, CallId, Lesson
from proxy.settings import Bounds, load
from proxy.sites import Sites
from proxy.windows.memory import MemoryWindow
from tests.fakes import WordTokens
from tests.make import make_body, make_call, make_caller, make_lesson, make_user_text
from tests.virtual_time import run

SETTINGS = load(None, env={})
SECRET = "swordfish"


def lesson(i: int = 0, user: str = "u", **overrides: Any) -> dict[str, Any]:
    text = make_user_text(request=f"Create one lesson about otter-{i}.")
    return make_body(
        messages=[{"role": "system", "content": "You teach. " * 50}, {"role": "user", "content": text}], user=user, **overrides
    )


def log(folder: Path, *lines: object) -> Path:
    path = folder / "calls.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def command(*arguments: str | Path, standard_input: str | None = None) -> Result:
    return CliRunner().invoke(app, ["estimate", *(str(argument) for argument in arguments)], input=standard_input)


def figures(*arguments: str | Path, standard_input: str | None = None) -> dict[str, Any]:
    done = command("--json", *arguments, standard_input=standard_input)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def three_and_one(folder: Path) -> Path:
    """Three calls of one learner 30 ms apart, one a second later, another learner's between them, and a chat."""
    own = [{"time": 100 + s, "request": lesson(i)} for i, s in enumerate((0.0, 0.03, 0.06, 1.2))]
    others = [{"time": 100.01, "request": lesson(9, "v")}, {"time": 100.02, "request": lesson(8, stop=["x"])}]
    return log(folder, *own, *others, {"time": 103, "request": {"model": "m", "messages": [{"role": "user", "content": "Hello."}]}})


def test_each_window_is_told_with_what_it_would_have_merged(tmp_path: Path) -> None:
    found = figures(three_and_one(tmp_path), "--max-wait-ms", "100", "--max-wait-ms", "40", "--max-wait-ms", "10")
    windows = {window["max_wait_ms"]: window for window in found["windows"]}
    assert list(windows) == [10, 40, 100]
    assert [windows[ms]["batches"] for ms in (10, 40, 100)] == [{}, {"2": 1}, {"3": 1}]
    assert [windows[ms]["alone"] for ms in (10, 40, 100)] == [{"alone": 5}, {"alone": 3}, {"alone": 2}]
    assert [windows[ms]["upstream_calls"] for ms in (10, 40, 100)] == [5, 4, 3]
    assert [windows[ms]["max_wait_seen_ms"] for ms in (10, 40, 100)] == [10, 40, 100]
    # 100 + 70 + 40, and 100 each for the two that nobody joins
    assert windows[100]["mean_wait_ms"] == 82
    assert (found["calls"], found["lesson_calls"], found["seconds"]) == (7, 5, 3.0)
    assert found["single"] == {"no_subject": 1, "stop": 1}
    assert found["single_though_like_a_lesson"] == {"stop": 1}


def test_the_tokens_are_those_of_the_bodies_as_they_would_go_upstream(tmp_path: Path) -> None:
    found = figures(three_and_one(tmp_path), "--max-wait-ms", "100", "--max-wait-ms", "0")
    nothing, some = found["windows"]
    assert nothing["input_tokens"] == found["lesson_input_tokens"] < found["input_tokens"]
    assert (nothing["input_tokens_saved"], nothing["saved_of_lessons"], nothing["alone"]) == (0, 0.0, {"alone": 5})
    assert some["input_tokens_saved"] == found["lesson_input_tokens"] - some["input_tokens"]
    # of three system texts and tools one is enough; what a batch says of itself costs less than two of them
    assert 0.15 < some["saved_of_lessons"] < 0.4
    assert some["saved_of_all"] < some["saved_of_lessons"]


def test_the_table_says_the_same_in_words(tmp_path: Path) -> None:
    done = command(three_and_one(tmp_path))
    assert done.exit_code == 0
    assert "7 calls in 3 s, 5 of them for one lesson each" in done.output
    assert all(f"{ms} ms" in done.output for ms in (25, 50, 100, 250, 500, 1000))
    assert "1 of 3" in done.output
    assert "never merged, whatever the window: stop 1, no_subject 1" in done.output
    assert "taken for a lesson by some rule: stop 1" in done.output


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (f'{{"time": 1, "request": "{SECRET}', "no JSON object"),
        (f'["{SECRET}"]', "no JSON object"),
        ({"request": lesson(), "x": SECRET}, "`time` must be seconds since 1970 or ISO 8601"),
        ({"time": SECRET, "request": lesson()}, "`time` must be seconds since 1970 or ISO 8601"),
        ({"time": True, "request": lesson()}, "`time` must be seconds since 1970 or ISO 8601"),
        ({"time": "inf", "request": lesson()}, "`time` must be seconds since 1970 or ISO 8601"),
        ({"time": 10**400, "request": lesson()}, "no JSON object"),
        ({"time": 1, "request": SECRET}, "no request in it"),
        ({"time": 1}, "no request in it"),
        ({"time": 1, "body": SECRET}, "`body` must be a JSON object"),
        ({"time": 1, "body": {}, "path": 5, "x": SECRET}, "`path` must be a string"),
        ({"time": 1, "body": {}, "headers": [SECRET]}, "`headers` must be a JSON object of strings"),
    ],
)
def test_a_bad_line_is_named_by_its_number_and_never_quoted(tmp_path: Path, bad: Any, why: str) -> None:
    path = log(tmp_path, {"time": 1, "request": lesson()}, "", bad, {"time": 2, "request": lesson()})
    done = command("--json", path)
    assert done.exit_code == 0
    assert f"line 3: {why}" in done.stderr
    assert "1 of 3 lines can't be read" in done.stderr
    assert SECRET not in done.output
    told = json.loads(done.stdout)
    assert (told["calls"], told["bad_lines"]) == (2, {"count": 1, "first": [{"line": 3, "why": why}]})


def test_only_the_first_bad_lines_are_named(tmp_path: Path) -> None:
    found = figures(log(tmp_path, *["x"] * 50, {"time": 1, "request": lesson()}))
    assert (found["bad_lines"]["count"], len(found["bad_lines"]["first"])) == (50, 20)


def test_what_can_not_be_read_at_all_is_an_error(tmp_path: Path) -> None:
    missing = command(tmp_path / "nothing.jsonl")
    assert (missing.exit_code, "No such file" in missing.output) == (1, True)
    assert command(tmp_path).exit_code == 1
    empty = command(log(tmp_path))
    assert (empty.exit_code, "no line in it" in empty.output) == (1, True)
    assert command(log(tmp_path, "x")).exit_code == 1
    (tmp_path / "bad.yaml").write_text("colour: red\n")
    wrong = command(log(tmp_path, "x"), "--config", tmp_path / "bad.yaml")
    assert (wrong.exit_code, "colour: unknown key" in wrong.output) == (1, True)


def test_a_log_can_be_piped_in() -> None:
    lines = "".join(json.dumps({"time": i / 100, "request": lesson(i)}) + "\n" for i in range(3))
    assert figures("-", "--max-wait-ms", "100", standard_input=lines)["windows"][0]["batches"] == {"3": 1}


FORMS: dict[str, dict[str, Any]] = {
    "a body under request": {"request": lesson()},
    "path, headers and body under request": {"request": {"path": "/v1/chat/completions", "headers": {}, "body": lesson()}},
    "path, headers and body": {"path": "/chat/completions", "headers": {"X-Other": "x"}, "body": lesson()},
    "a body alone": lesson(),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_line_holds_its_request_in_any_of_these_forms(tmp_path: Path, form: str) -> None:
    path = log(tmp_path, {"time": 5, "request": lesson(1)}, {"time": 5.05, **FORMS[form]})
    assert figures(path, "--max-wait-ms", "100")["windows"][0]["batches"] == {"2": 1}


@pytest.mark.parametrize(
    "time",
    [1700000000.05, "1700000000.05", 1700000000050, "2023-11-14T22:13:20.050Z", "2023-11-14 22:13:20.050", "2023-11-14T23:13:20.050+01:00"],
)
def test_a_time_is_seconds_milliseconds_or_iso(tmp_path: Path, time: Any) -> None:
    path = log(tmp_path, {"time": 1700000000, "request": lesson()}, {"time": time, "request": lesson(1)})
    found = figures(path, "--max-wait-ms", "49", "--max-wait-ms", "51")
    assert [window["merged_calls"] for window in found["windows"]] == [0, 2]
    assert found["seconds"] == pytest.approx(0.05, abs=1e-3)


ANY_MODEL = "model_list: [{model_name: '*', litellm_params: {model: 'simulated/*'}%s}]"
NO_CARRIER = ", model_info: {lessons: {force: none, json_schema: false, json_object: false}}"


@pytest.mark.parametrize(
    ("text", "merged", "alone", "single"),
    [
        ("lessons: {mode: 'off'}", 2, {}, {}),
        ("lessons: {mode: dry_run}", 2, {}, {}),
        ("lessons: {recognise: [{name: lesson tool or schema, share: 0}]}", 0, {}, {"share": 2}),
        ("lessons: {recognise: [{name: lesson tool or schema, mode: 'off'}]}", 0, {}, {"rule_off": 2}),
        ("lessons: {window: {max_size: 1}}", 0, {"alone": 2}, {}),
        ("bounds: {waiting_calls: 1}", 0, {"windows_full": 1, "alone": 1}, {}),
        ("model_list: [{model_name: other, litellm_params: {model: simulated/other}}]", 0, {"model_not_found": 2}, {}),
        (ANY_MODEL % NO_CARRIER, 0, {"unmergeable:no_carrier": 2}, {}),
        (ANY_MODEL % ", model_info: {lessons: {max_output_tokens: 10}}", 0, {"output_limit": 2}, {}),
    ],
)
def test_the_configuration_decides_as_it_would_on_live_traffic(
    tmp_path: Path, text: str, merged: int, alone: dict[str, int], single: dict[str, int]
) -> None:
    (tmp_path / "proxy.yaml").write_text(text if "model_list" in text else f"{ANY_MODEL % ''}\n{text}\n")
    path = log(tmp_path, *({"time": i / 100, "request": lesson(i, max_tokens=100)} for i in range(2)))
    found = figures(path, "--config", tmp_path / "proxy.yaml", "--max-wait-ms", "100")
    (window,) = found["windows"]
    assert (window["merged_calls"], window["alone"], found["single"]) == (merged, alone, single)


def past(i: int, at: float, user: str, **headers: str) -> Past:
    return Past(at, make_call(id=CallId(f"line-{i}"), body=lesson(i, user), headers=headers))


def replayed(calls: Sequence[Past], *waits_ms: int) -> Estimate:
    return estimate(calls, SETTINGS, waits_ms, Prices(SETTINGS, WordTokens()))


COMING = st.lists(st.tuples(st.integers(0, 200), st.sampled_from("uvw"), st.sampled_from([None, "2", "4"])), max_size=30)


async def lived(calls: Sequence[Past], wait_ms: int) -> tuple[Counter[int], float]:
    """Send the calls through the real window at their times; return its batches by size and the longest wait."""
    sizes: Counter[int] = Counter()

    async def dispatch(batch: Batch, delivery: Delivery) -> None:
        sizes[len(batch.lessons)] += 1
        for one in batch.lessons:
            delivery.deliver(Alone("settled"), one.id)

    window, recogniser = MemoryWindow(dispatch, max_waiting=500, max_windows=500), Recogniser(SETTINGS.lesson_policy())
    began = asyncio.get_running_loop().time()

    async def join(one: Past) -> float:
        judged = recogniser.judge(one.call)
        assert isinstance(judged, Lesson)
        await asyncio.sleep(began + one.at - asyncio.get_running_loop().time())
        plan = Sites().plan(judged, max_output_tokens=None, now=0.0)
        assert hasattr(plan, "max_wait_s")
        return (await window.join(judged, plan, make_caller())).wait_s  # type: ignore[arg-type]

    assert SETTINGS.lessons.window.max_wait_ms == wait_ms
    return sizes, max(await asyncio.gather(*map(join, calls)), default=0.0)


@settings(deadline=None, max_examples=25)
@given(COMING)
def test_the_replay_makes_the_batches_that_the_window_itself_would_make(coming: list[tuple[int, str, str | None]]) -> None:
    # 7 ms apart, and so never exactly as far as a window is long: what is first of two things at one moment is chance
    times = sorted({7 * ms for ms, _, _ in coming})
    calls = [
        past(i, ms / 1000, user, **({"x-lesson-expect": expect} if expect else {}))
        for i, (ms, (_, user, expect)) in enumerate(zip(times, coming, strict=False))
    ]
    (found,) = replayed(calls, 100).windows
    sizes, longest_s = run(lived(calls, 100))
    assert found.sizes == sizes
    assert found.longest_wait_s == pytest.approx(longest_s)


@settings(deadline=None, max_examples=25)
@given(COMING, st.randoms(use_true_random=False))
def test_every_lesson_is_counted_once_whatever_the_window_and_the_order_of_the_lines(
    coming: list[tuple[int, str, str | None]], chance: random.Random
) -> None:
    calls = [past(i, ms / 1000 + i * 1e-6, user) for i, (ms, user, _) in enumerate(coming)]
    found = replayed(calls, 0, 30, 100, 1000)
    assert found.lessons == len(calls)
    for window in found.windows:
        assert window.merged + window.alone.total() == len(calls)
        assert window.longest_wait_s <= window.max_wait_ms / 1000 + 1e-9
        assert window.mean_wait_s <= window.longest_wait_s + 1e-9
        assert min(window.sizes, default=2) >= 2
        assert max(window.sizes, default=2) <= 5
    shuffled = [*calls]
    chance.shuffle(shuffled)
    assert replayed(shuffled, 0, 30, 100, 1000) == found


def test_a_line_far_out_of_order_counts_as_late_and_is_told() -> None:
    found, prices = Estimate(), Prices(SETTINGS, WordTokens())
    order = _Order([replay := Replay(100, Bounds(), prices)], found)
    for i in range(1100):
        order.add(make_lesson(id=CallId(f"{i}"), key=f"key-{i}"), 10, float(i), 1)
    order.add(make_lesson(id=CallId("late"), key="key-99"), 10, 0.0, 1)
    order.add(make_lesson(id=CallId("huge")), 10, 1e9, 10**9)
    assert order.finish() == [replay.figures]
    assert found.disordered == 1
    assert (replay.figures.sizes, replay.figures.alone) == ({2: 1}, {"alone": 1100})
    assert replay.figures.waited_s == pytest.approx(1102 * 0.1)


def test_no_line_is_held_that_is_longer_than_any_request() -> None:
    lines = list(_lines(io.BytesIO(b"short\n" + b"x" * 30 + b"\n12345678\n1234567\n" + b"y" * 16), longest=8))
    assert lines == [b"short\n", None, None, b"1234567\n", None]
    counted = Lines()

    class Endless(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            assert size > 0, "a line is never read without a bound"
            return super().readline(size)

    assert list(past_calls(Endless(b"x\n"), counted)) == []
    assert counted.bad == 1
