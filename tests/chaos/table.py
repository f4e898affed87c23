"""The last word of a run: one line for each scenario, and one for each kind of simulated weather."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from proxy.windows.replica.calls import BACK
from tests.chaos.judging import Verdict
from tests.chaos.simulation import Storm

_FIGURES = ("calls", "answered", "merged", "taken back", "errors", "generated twice", "left", "lost", "refused")


def table(verdicts: Mapping[str, Verdict], kinds: Mapping[str, Storm]) -> Table:
    """Build it."""
    shown = Table("scenario", "rounds", *_FIGURES, "slowest s", caption="lost: with their replica. refused: sent again elsewhere.")
    for name, verdict in verdicts.items():
        figures = (f"{verdict.figures[figure]:,}" for figure in _FIGURES)
        shown.add_row(name, str(verdict.rounds), *figures, f"{verdict.slowest_s:.1f}")
    for kind, storm in kinds.items():
        back = sum(number for fate, number in storm.fates.items() if fate.startswith(BACK))
        told = (storm.calls, storm.fates.total(), storm.fates["merged"], back, 0, storm.twice)
        shown.add_row(f"simulated: {kind}", str(storm.worlds), *(f"{number:,}" for number in told))
    return shown
