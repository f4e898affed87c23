"""One round: a scenario under traffic, everybody answered, everything mended, and then the verdict."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress

from tests.chaos.fleet import Fleet
from tests.chaos.judging import TOKEN, Call, Verdict, asked_for, judge
from tests.chaos.scenarios import ALL
from tests.chaos.scene import Scene
from tests.chaos.traffic import Traffic

_WARMING_S = (0.3, 1.0)
_MEET_S = 20.0


async def play(fleet: Fleet, name: str, seed: int) -> Verdict:
    """Play a scenario once. From the seed come who calls when and what happens when; how processes run, does not."""
    fleet.provider.stats.reset()
    traffic = Traffic(fleet, random.Random(f"{seed} {name} traffic"))
    scene = Scene(fleet, traffic, random.Random(f"{seed} {name}"))
    try:
        broken = await _acted(scene, name)
        await traffic.over()
        await fleet.mend()
        broken += await fleet.sharing()
        broken += [] if broken else await _meet(traffic)
        broken += await fleet.at_rest()
        if still := fleet.provider.stats.open_requests:
            broken.append(f"{still} requests upstream are written for nobody")
        verdict = judge(traffic.calls, asked_for([request.body for request in fleet.provider.stats.recorded]))
        verdict.broken += broken + _told(fleet)
        return verdict
    finally:
        await traffic.aclose()


async def _acted(scene: Scene, name: str) -> list[str]:
    """Let the scenario happen under traffic, which ends a little after it."""
    background = asyncio.create_task(scene.traffic.background())
    try:
        await scene.between(*_WARMING_S)
        await ALL[name](scene)
        await scene.between(*_WARMING_S)
    except AssertionError as error:
        return [str(error)]
    finally:
        background.cancel()
        with suppress(asyncio.CancelledError):
            await background
    return []


async def _meet(traffic: Traffic) -> list[str]:
    """Send companions to all replicas until they meet in one batch."""
    deadline = time.monotonic() + _MEET_S
    calls: list[Call] = []
    while time.monotonic() < deadline:
        calls = traffic.across()
        await traffic.over()
        if _met(calls):
            return []
    told = ", ".join(call.got.way for call in calls if call.got and call.got.status == 200)
    return [f"companions at different replicas meet no more: {told}"]


def _met(calls: list[Call]) -> bool:
    batches = {call.got.headers.get("x-lesson-batch-id") for call in calls if call.got and call.got.status == 200}
    return len(batches) == 1 and None not in batches and all(call.got for call in calls)


def _told(fleet: Fleet) -> list[str]:
    """What prompts hold must be in no log."""
    texts = {replica.url: replica.process.err.read_text() for replica in fleet.replicas}
    return [f"the log of {url} tells of a prompt" for url, text in texts.items() if TOKEN.search(text)]
