"""The estimate as one sees it: a table, or one JSON object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from proxy.cli import screen
from proxy.cli.estimate.estimating import Estimate, estimate
from proxy.cli.estimate.log import Lines, opened, past_calls
from proxy.cli.estimate.prices import Prices
from proxy.cli.estimate.replay import Figures
from proxy.cli.recorded import UnreadableError
from proxy.settings import ConfigError, load
from proxy.upstream.tokens import TiktokenTokens

WAITS_MS = (25, 50, 100, 250, 500, 1000)
_TOP = 10


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of `estimate`."""

    log: str
    config: Path | None = None
    waits_ms: Sequence[int] = WAITS_MS
    as_json: bool = False


def run(asked: Asked) -> int:
    """Print the estimate; 1 where the log or the configuration can't be read, or no line of the log is a call."""
    lines = Lines()
    try:
        settings = load(asked.config)
        prices = Prices(settings, TiktokenTokens())
        waits = sorted({*asked.waits_ms})
        with opened(asked.log) as file:
            found = estimate(past_calls(file, lines), settings, waits, prices)
    except ConfigError as error:
        screen.mistakes(error)
        return 1
    except (UnreadableError, OSError) as error:
        screen.line(str(error), stderr=True, style="red")
        return 1
    _print_bad_lines(asked.log, lines)
    if asked.as_json:
        screen.line(orjson.dumps(as_json(found, lines)).decode())
    elif found.calls:
        _print_tables(found)
    return 0 if found.calls else 1


def as_json(found: Estimate, lines: Lines) -> dict[str, Any]:
    """Return the figures as one object; times in milliseconds unless a name says seconds."""
    return {
        "lines": lines.read,
        "bad_lines": {"count": lines.bad, "first": [{"line": number, "why": why} for number, why in lines.named]},
        "disordered": found.disordered,
        "seconds": 0.0 if found.first_s is None else round(found.last_s - found.first_s, 3),
        "calls": found.calls,
        "lesson_calls": found.lessons,
        "input_tokens": found.input_tokens,
        "lesson_input_tokens": found.lesson_tokens,
        "single": _top(found.single),
        "single_though_like_a_lesson": _top(found.looked_like_lessons),
        "windows": [_window(figures, found) for figures in found.windows],
    }


def _window(figures: Figures, found: Estimate) -> dict[str, Any]:
    saved = found.lesson_tokens - figures.input_tokens
    return {
        "max_wait_ms": figures.max_wait_ms,
        "merged_calls": figures.merged,
        "batches": {str(size): count for size, count in sorted(figures.sizes.items())},
        "alone": _top(figures.alone),
        "upstream_calls": figures.sizes.total() + figures.alone.total(),
        "input_tokens": figures.input_tokens,
        "input_tokens_saved": saved,
        "saved_of_lessons": _share(saved, found.lesson_tokens),
        "saved_of_all": _share(saved, found.input_tokens),
        "mean_wait_ms": round(figures.mean_wait_s * 1000, 1),
        "max_wait_seen_ms": round(figures.longest_wait_s * 1000, 1),
    }


def _top(counts: Counter[str]) -> dict[str, int]:
    return dict(counts.most_common(_TOP))


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def _print_bad_lines(log: str, lines: Lines) -> None:
    if not lines.read:
        screen.line(f"{log}: no line in it", stderr=True, style="red")
    if lines.bad:
        screen.line(f"{log}: {lines.bad} of {lines.read} lines can't be read", stderr=True, style="yellow")
        for number, why in lines.named:
            screen.line(f"  line {number}: {why}", stderr=True)


def _print_tables(found: Estimate) -> None:
    span_s = found.last_s - (found.first_s or 0.0)
    screen.line(
        f"{found.calls} calls in {span_s:.0f} s, {found.lessons} of them for one lesson each; input tokens: {found.input_tokens}, "
        f"{found.lesson_tokens} of them the lessons'"
    )
    windows = screen.table(
        "What merging would have saved", "window", "merged", "batches", "alone", "input tokens", "saved", "of lessons", "of all", "wait"
    )
    for row in (_window(figures, found) for figures in found.windows):
        screen.row(
            windows,
            f"{row['max_wait_ms']} ms",
            f"{row['merged_calls']} calls",
            ", ".join(f"{count} of {size}" for size, count in row["batches"].items()) or "-",
            _listed(row["alone"]),
            str(row["input_tokens"]),
            str(row["input_tokens_saved"]),
            f"{row['saved_of_lessons']:.1%}",
            f"{row['saved_of_all']:.1%}",
            f"{row['mean_wait_ms']:.0f} ms mean, {row['max_wait_seen_ms']:.0f} ms most",
        )
    screen.console().print(windows)
    if found.single:
        screen.line(f"never merged, whatever the window: {_listed(_top(found.single))}")
    if found.looked_like_lessons:
        screen.line(f"of these, taken for a lesson by some rule: {_listed(_top(found.looked_like_lessons))}")
    if found.disordered:
        screen.line(f"{found.disordered} calls stand far behind later ones in the log; they were taken as coming late", style="yellow")
    screen.line(
        "Counted with one tokenizer for all models, on the bodies that would go upstream. What a replay can't know: lessons that a "
        "batch fails and that are sent again, callers that leave, and how late lessons come that stand behind others in a batch.",
        style="dim",
    )


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counts.items()) or "-"
