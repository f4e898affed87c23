"""What the demo measured, as numbers and as a table; it sends nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from rich.table import Table

from proxy.cli import screen
from proxy.cli.demo.client import Answer


@dataclass(frozen=True, slots=True)
class Provided:
    """What the provider counted on its side."""

    requests: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Pass:
    """One run of the traffic."""

    answers: tuple[Answer, ...]
    provided: Provided

    @property
    def failed(self) -> int:
        """Return the number of calls without a whole answer."""
        return sum(answer.problem is not None for answer in self.answers)

    @property
    def batches(self) -> Counter[int]:
        """Return the number of merged batches by their size."""
        return Counter({answer.batch_id: answer.batch_size for answer in self.answers if answer.batch_id}.values())

    @property
    def waits_ms(self) -> list[int]:
        """Return the times in the window."""
        return [answer.wait_ms for answer in self.answers if answer.wait_ms is not None]

    @property
    def seconds(self) -> list[float]:
        """Return the times of the lesson calls from request to the answer's end."""
        return [answer.seconds for answer in self.answers if answer.lesson and answer.problem is None]


def saved_share(without: Pass, merged: Pass) -> float:
    """Return the part of the input tokens, 0 to 1, that the provider was spared by merging; below 0: it got more."""
    before = without.provided.prompt_tokens
    return 1 - merged.provided.prompt_tokens / before if before else 0.0


def figures(without: Pass, merged: Pass) -> Table:
    """Return the table of both runs side by side."""
    made = screen.table("The same traffic twice", "", "one by one", "merged")
    rows: list[tuple[str, str, str]] = [
        ("calls from apps", *_both(without, merged, lambda run: len(run.answers))),
        ("… of these answered from a batch", *_both(without, merged, lambda run: sum(a.batch_id is not None for a in run.answers))),
        ("… failed", *_both(without, merged, lambda run: run.failed)),
        ("batches", _sizes(without), _sizes(merged)),
        ("requests at the provider", *_both(without, merged, lambda run: run.provided.requests)),
        ("input tokens at the provider", *_both(without, merged, lambda run: run.provided.prompt_tokens)),
        ("input tokens told to callers", *_both(without, merged, lambda run: sum(a.prompt_tokens for a in run.answers))),
        ("output tokens at the provider", *_both(without, merged, lambda run: run.provided.completion_tokens)),
        ("input tokens saved", "", f"{saved_share(without, merged):.1%}"),
        ("wait in the window, median / longest", _waits(without.waits_ms), _waits(merged.waits_ms)),
        ("lesson calls, median / longest", _seconds(without.seconds), _seconds(merged.seconds)),
    ]
    for row in rows:
        screen.row(made, *row)
    for column in made.columns[1:]:
        column.justify = "right"
    return made


def problems(run: Pass) -> list[str]:
    """Return what went wrong, each with its number of calls."""
    return [f"{count} calls: {problem}" for problem, count in Counter(answer.problem for answer in run.answers if answer.problem).items()]


def _both(without: Pass, merged: Pass, number: Callable[[Pass], int]) -> tuple[str, str]:
    return f"{number(without):,}", f"{number(merged):,}"


def _sizes(run: Pass) -> str:
    sizes = ", ".join(f"{count} of {size}" for size, count in sorted(run.batches.items()))
    return f"{run.batches.total()} ({sizes})" if sizes else "0"


def _waits(values: Sequence[int]) -> str:
    return f"{median(values):.0f} / {max(values)} ms" if values else "-"


def _seconds(values: Sequence[float]) -> str:
    return f"{median(values):.1f} / {max(values):.1f} s" if values else "-"
