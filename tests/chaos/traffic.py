"""Callers: companions whose calls land at different replicas, lone ones, streamed and whole, and some that leave early."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

import httpx

from proxy.model import Json
from tests.acceptance.learners import CHAT, LEVELS, TOOL, Got
from tests.chaos.fleet import Fleet, Replica
from tests.chaos.judging import BOUND_S, HINTED_S, TOGETHER, WINDOW_S, Call
from tests.make import make_user_text

GROUPS_PER_SECOND = 2.5
_STREAMED, _LEAVING, _LONE, _ANNOUNCED = 0.4, 0.12, 0.2, 0.25
_TOPICS = ("Linear equations", "Photosynthesis", "The French Revolution", "Fractions")
_STYLE = " ".join(["Write for a child of eleven: short sentences, one idea each, one example from everyday life, no jargon."] * 12)
"""What all prompts share is most of them, as in real apps: else merging would save nothing, and rest."""
_TRIES = 4
_GIVE_UP_S = 2 * BOUND_S


class Traffic:
    """All calls of one round."""

    def __init__(self, fleet: Fleet, rng: random.Random) -> None:
        self.calls: list[Call] = []
        self._fleet = fleet
        self._rng = rng
        self._tasks: list[asyncio.Task[None]] = []
        self._users = 0
        self._client = httpx.AsyncClient(timeout=2 * _GIVE_UP_S, limits=httpx.Limits(max_connections=None, max_keepalive_connections=0))

    async def aclose(self) -> None:
        """Let every caller that is still there leave."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()

    async def over(self) -> None:
        """Wait until every caller is answered, or has given up."""
        await asyncio.gather(*self._tasks)

    async def background(self) -> None:
        """Send groups at random for ever."""
        while True:
            lone = self._rng.random() < _LONE
            self.group(1 if lone else self._rng.randint(2, TOGETHER))
            await asyncio.sleep(self._rng.expovariate(GROUPS_PER_SECOND))

    def led_by(self, leader: Replica, others: Sequence[Replica]) -> list[Call]:
        """Send a group whose first call opens the window at `leader`, and whose others come at `others` a little later."""
        return self._send_group([leader, *others], first_s=0.06)

    def group(self, size: int, *, announced: bool | None = None, leaving: float = _LEAVING) -> list[Call]:
        """Send a group at random replicas."""
        there = self._fleet.balanced
        at = [self._rng.choice(there) for _ in range(size)]
        announced = size > 1 and self._rng.random() < _ANNOUNCED if announced is None else announced
        return self._send_group(at, announced=announced, leaving=leaving)

    def across(self) -> list[Call]:
        """Send an announced group with a call at each replica, of which nobody leaves."""
        return self._send_group(self._fleet.balanced, announced=True, leaving=0.0)

    def _send_group(self, at: Sequence[Replica], *, first_s: float = 0.0, announced: bool = False, leaving: float = _LEAVING) -> list[Call]:
        self._users += 1
        user, topic = f"learner-{self._users}-{self._rng.getrandbits(32):x}", self._rng.choice(_TOPICS)
        calls: list[Call] = []
        for place, replica in enumerate(at):
            after_s = 0.0 if place == 0 else first_s + self._rng.uniform(0.0, WINDOW_S / 2)
            call = self._new_call(user, replica, bound_s=HINTED_S if announced else WINDOW_S)
            calls.append(call)
            leaves_s = self._rng.uniform(0.0, 5.0) if self._rng.random() < leaving else None
            headers = {"x-lesson-expect": str(len(at))} if announced else {}
            sending = self._send(call, replica, self._body(call, topic), headers, after_s=after_s, leaves_s=leaves_s)
            self._tasks.append(asyncio.create_task(sending))
        return calls

    def _new_call(self, user: str, replica: Replica, *, bound_s: float) -> Call:
        token = f"otter-{self._rng.getrandbits(40):010x}"
        call = Call(token, user, self._rng.choice(LEVELS), replica.life, bound_s=bound_s)
        self.calls.append(call)
        return call

    def _body(self, call: Call, topic: str) -> Json:
        text = make_user_text(topic=topic, request=f"Level: {call.level}\nCreate a lesson about {call.token}.")
        messages = [{"role": "system", "content": _STYLE}, {"role": "user", "content": text}]
        body: Json = {"model": "m", "user": call.user, "messages": messages, **TOOL}
        return body | ({"stream": True} if self._rng.random() < _STREAMED else {})

    async def _send(
        self, call: Call, replica: Replica, body: Json, headers: dict[str, str], *, after_s: float, leaves_s: float | None
    ) -> None:
        await asyncio.sleep(after_s)
        await self._once(call, replica, body, headers, leaves_s)
        for _ in range(_TRIES):
            there = self._fleet.balanced
            if not call.refused or not there:
                return
            # what a load balancer does: the same once more, elsewhere; to tell both apart it is another prompt
            replica = self._rng.choice(there)
            call = self._new_call(call.user, replica, bound_s=call.bound_s)
            await self._once(call, replica, self._body(call, _TOPICS[0]), headers, leaves_s)

    async def _once(self, call: Call, replica: Replica, body: Json, headers: dict[str, str], leaves_s: float | None) -> None:
        call.came = time.monotonic()
        try:
            async with asyncio.timeout(_GIVE_UP_S if leaves_s is None else leaves_s):
                answer = await self._client.post(replica.url + CHAT, json=body, headers=headers)
            call.got = Got(0, answer.status_code, answer.headers, answer.content)
        except TimeoutError:
            call.left, call.failed = leaves_s is not None, "nothing came"
        except httpx.HTTPError as error:
            call.failed = type(error).__name__
        finally:
            call.took_s = time.monotonic() - call.came
