"""`make chaos`: replicas and their Redis in every misfortune, then the simulation; exit code 1 with the first broken promise."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from tests.chaos.fleet import Fleet
from tests.chaos.judging import Verdict
from tests.chaos.rounds import play
from tests.chaos.scenarios import ALL
from tests.chaos.simulation import Storm, storms
from tests.chaos.table import table

T = TypeVar("T")
_INTERRUPTED = 130
_MOST_TOLD = 20
_WIDTH = 180
_SCREEN = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _WIDTH)


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the first round, each further one has the next; without it: at random, and told")
    parser.add_argument("--rounds", type=int, default=2, help="of each scenario (2)")
    parser.add_argument("--only", nargs="+", choices=list(ALL), metavar="SCENARIO", default=list(ALL), help=", ".join(ALL))
    parser.add_argument("--replicas", type=int, default=3, choices=(2, 3, 4, 5), help="proxies (3)")
    parser.add_argument("--calls", type=int, default=1_000_000, help="of the simulation (1000000); 0: none")
    return parser.parse_args(words)


async def played(args: argparse.Namespace, seed: int) -> tuple[dict[str, Verdict], bool]:
    """Play all rounds, or those up to the first broken promise; return the verdicts, and whether all was kept."""
    verdicts: dict[str, Verdict] = {}
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        async with Fleet.running(Path(folder), args.replicas) as fleet:
            for number in range(seed, seed + args.rounds):
                for name in args.only:
                    began = time.monotonic()
                    verdict = await play(fleet, name, number)
                    _tell(name, number, verdict, time.monotonic() - began)
                    verdicts.setdefault(name, Verdict()).add(verdict)
                    if verdict.broken:
                        return verdicts, False
    return verdicts, True


def _tell(name: str, seed: int, verdict: Verdict, seconds: float) -> None:
    told = {**verdict.figures, **verdict.reasons}
    figures = ", ".join(f"{what} {number}" for what, number in told.items() if number)
    _SCREEN.print(f"{name} (seed {seed}, {seconds:.0f} s): {figures}")
    for what in verdict.broken[:_MOST_TOLD]:
        _SCREEN.print(f"  BROKEN: {what}", markup=False)
    if verdict.broken:
        _SCREEN.print(f"  once more: make chaos ARGS='--only {name} --seed {seed} --rounds 1 --calls 0'", markup=False)


def simulated(calls: int, seed: int) -> tuple[dict[str, Storm], bool]:
    """Play the simulation; as above."""
    kinds: dict[str, Storm] = {}
    done, told, began = 0, 0, time.monotonic()
    for storm in storms(calls, seed) if calls else ():
        if storm.broken:
            _SCREEN.print(f"simulation, weather {storm.kind!r} (seed {storm.seed})\n  BROKEN: {storm.broken}", markup=False)
            return kinds, False
        if storm.kind in kinds:
            kinds[storm.kind].add(storm)
        else:
            kinds[storm.kind] = storm
        done += storm.calls
        if done - told >= calls / 10:
            told = done
            _SCREEN.print(f"simulation: {done:,} calls, {time.monotonic() - began:.0f} s")
    return kinds, True


def main(words: Sequence[str]) -> int:
    """Do both."""
    args = arguments(words)
    seed = secrets.randbelow(1_000_000) if args.seed is None else args.seed
    _SCREEN.print(f"seed {seed}")
    try:
        verdicts, kept = asyncio.run(_interruptible(played(args, seed)))
        kinds, held = simulated(args.calls, seed) if kept else ({}, False)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return _INTERRUPTED
    _SCREEN.print(table(verdicts, kinds))
    return 0 if kept and held else 1


async def _interruptible(playing: Coroutine[Any, Any, T]) -> T:
    """Clean up after SIGTERM as after Ctrl-C."""
    task = asyncio.ensure_future(playing)
    with suppress(NotImplementedError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
