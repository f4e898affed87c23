"""The demo as one sees it: progress, table, what was measured and how."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from proxy.cli import screen
from proxy.cli.demo.client import send_all
from proxy.cli.demo.figures import Pass, Provided, figures, problems, saved_share
from proxy.cli.demo.house import NotStartedError, running_proxy
from proxy.cli.demo.traffic import Ask, plan
from proxy.simulated import Provider

_TOKENS_PER_SECOND = 200.0
_FIRST_TOKEN_S = 0.2
_EVENT_CHARS = 24
_KEY = {"authorization": "Bearer demo"}
"""Calls of different keys would never be merged; the simulated provider takes any."""
_ONE_BY_ONE = {"x-lesson-merge": "off"}


def run() -> int:
    """Run the demo; return 1 where a call failed or the proxy did not start."""
    try:
        without, merged = asyncio.run(_measure(plan(), screen.console(stderr=True)))
    except NotStartedError as error:
        screen.line(str(error), stderr=True, style="red")
        return 1
    screen.console().print(figures(without, merged))
    screen.line(
        f"Measured on {len(merged.answers)} real HTTP calls, sent twice. The provider is simulated ({_TOKENS_PER_SECOND:.0f} tokens/s, the "
        f"first after {_FIRST_TOKEN_S:g} s, {_EVENT_CHARS} characters a streamed event) and counts tokens with a real tokenizer. "
        f"Merging spared it {saved_share(without, merged):.1%} of all input tokens, those of lone lessons and of calls that are no "
        "lessons included. Later lessons of a batch come later than they would alone.",
        style="dim",
    )
    for name, measured in (("one by one", without), ("merged", merged)):
        for problem in problems(measured):
            screen.line(f"{name}: {problem}", stderr=True, style="red")
    return 1 if without.failed or merged.failed else 0


async def _measure(asks: Sequence[Ask], console: Console) -> tuple[Pass, Pass]:
    provider = Provider.running(tokens_per_second=_TOKENS_PER_SECOND, first_token_s=_FIRST_TOKEN_S, delta_chars=_EVENT_CHARS)
    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        starting = progress.add_task("starting the proxy", total=1)
        async with provider as upstream, running_proxy(upstream.url) as address:
            progress.advance(starting)
            passes: list[Pass] = []
            for name, headers in (("one by one", _ONE_BY_ONE), ("merged", {})):
                task = progress.add_task(name, total=len(asks))
                upstream.stats.reset()
                answers = await send_all(asks, address, _KEY | headers, partial(progress.advance, task))
                stats = upstream.stats
                passes.append(Pass(tuple(answers), Provided(stats.requests, stats.prompt_tokens, stats.completion_tokens)))
            return passes[0], passes[1]
