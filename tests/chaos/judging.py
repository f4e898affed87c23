"""What is promised, checked over what the callers saw and what the provider was asked for. Pure: records in, a verdict out.

Every prompt holds a token that no other prompt has, and a lesson holds the tokens of the prompt that it was written for:
so an answer tells whose it is, and a request upstream whose lessons it asks for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

import orjson

from proxy.model import Json
from tests.acceptance.learners import Got

TOKEN = re.compile(r"otter-[0-9a-f]{10}")
WINDOW_S, HINTED_S = 0.4, 1.5
TOGETHER = 4
"""What the replicas are configured with: a window's length, with an announcement and without, and the most lessons of a batch."""
STORE_S = 0.15
"""The same: how long Redis may take."""
GRACE_S = 1.0
"""The same: how long a replica that drains lets calls in."""

_LEASE_S, _TICK_S, _PATIENCE_S = 5.0, 1.0, 2.0
_LESSON_S = 1.5
_NOISE_S = 6.0
"""What a loaded machine may add."""
BOUND_S = HINTED_S + 3 * STORE_S + TOGETHER * _LESSON_S + _LEASE_S + 2 * _TICK_S + _PATIENCE_S + _LESSON_S + _NOISE_S
"""The longest way of a call: through a window, behind its companions in a batch that is lost at its end, and then alone."""
_WAIT_NOISE_S = 1.0


@dataclass
class Life:
    """What was done to a replica."""

    killed: bool = False
    shut_at: float = inf
    """When it may let nobody in any more, as it was told to stop."""
    frozen_s: float = 0.0


@dataclass
class Call:
    """One call, as its caller saw it."""

    token: str
    user: str
    level: str = "intro"
    at: Life = field(default_factory=Life)
    came: float = 0.0
    took_s: float = 0.0
    got: Got | None = None
    left: bool = False
    failed: str | None = None
    """What its connection ended with, before an answer."""
    bound_s: float = WINDOW_S

    @property
    def refused(self) -> bool:
        """Nobody was let in any more: the caller goes elsewhere, as a load balancer does."""
        return self.failed is not None and self.came >= self.at.shut_at


@dataclass
class Verdict:
    """Figures, and what was promised and is not so."""

    rounds: int = 0
    broken: list[str] = field(default_factory=list[str])
    figures: Counter[str] = field(default_factory=Counter[str])
    reasons: Counter[str] = field(default_factory=Counter[str])
    """Why calls were not merged, or not at first."""
    slowest_s: float = 0.0

    def add(self, other: Verdict) -> None:
        """Take another round's in."""
        self.rounds += other.rounds
        self.broken += other.broken
        self.figures += other.figures
        self.reasons += other.reasons
        self.slowest_s = max(self.slowest_s, other.slowest_s)


@dataclass
class Generated:
    """How often the provider was asked for each token's lesson: in a batch, and alone."""

    merged: Counter[str] = field(default_factory=Counter[str])
    alone: Counter[str] = field(default_factory=Counter[str])

    @classmethod
    def of(cls, asked: Sequence[frozenset[str]]) -> Generated:
        """Count requests, each given by its tokens."""
        one = cls()
        for tokens in asked:
            (one.merged if len(tokens) > 1 else one.alone).update(tokens)
        return one

    def total(self, token: str) -> int:
        """Return both together."""
        return self.merged[token] + self.alone[token]


def tokens_in(text: str) -> frozenset[str]:
    """Return all tokens of a text, which may have been written large at a sentence's begin."""
    return frozenset(TOKEN.findall(text.lower()))


def asked_for(bodies: Sequence[Json]) -> list[frozenset[str]]:
    """Return each request's tokens."""
    return [tokens_in(orjson.dumps(body["messages"]).decode()) for body in bodies]


def judge(calls: Sequence[Call], asked: Sequence[frozenset[str]]) -> Verdict:
    """Hold what happened against what is promised."""
    verdict = Verdict(rounds=1)
    generated = Generated.of(asked)
    for call in calls:
        verdict.broken += [f"{call.token}: {what}" for what in _of_call(call, generated)]
        _count(verdict, call, generated)
    verdict.broken += _isolation(calls, asked)
    return verdict


def _of_call(call: Call, generated: Generated) -> list[str]:
    broken: list[str] = []
    merged, alone = generated.merged[call.token], generated.alone[call.token]
    if merged > 1 or alone > 1:
        broken.append(f"generated {merged} times in batches and {alone} times alone")
    if call.got is not None:
        broken += _of_answer(call, call.got, generated)
    elif call.left or call.at.killed:
        pass
    elif not call.refused or generated.total(call.token):
        broken.append(f"no answer from a replica that lives: {call.failed}")
    limit_s = BOUND_S + call.at.frozen_s
    if call.took_s > limit_s and not call.at.killed:
        broken.append(f"took {call.took_s:.1f} s, promised are {limit_s:.1f}")
    return broken


def _of_answer(call: Call, got: Got, generated: Generated) -> list[str]:
    """Nothing that happens here is a reason for an error: the provider is well all the time."""
    if got.status != 200:
        return [f"status {got.status}: {got.body[:200]!r}"]
    try:
        lesson = got.lesson()
    except (AssertionError, ValueError, KeyError) as error:
        return [f"not the form of an answer: {str(error)[:200]}"]
    broken: list[str] = []
    others = tokens_in(orjson.dumps(lesson).decode()) - {call.token}
    if others:
        broken.append(f"its lesson tells of {', '.join(sorted(others))}")
    elif not tokens_in(orjson.dumps(lesson).decode()) or lesson["level"] != call.level:
        broken.append("the lesson is not its own")
    if got.way == "merged" and not generated.merged[call.token]:
        broken.append("is said to be merged, and no batch asked for it")
    waited_s, most_s = int(got.headers["x-lesson-wait-ms"]) / 1000, call.bound_s + 3 * STORE_S + _WAIT_NOISE_S + call.at.frozen_s
    if waited_s > most_s:
        broken.append(f"waited {waited_s:.2f} s in its window ({got.way}), promised are {most_s:.2f}")
    return broken


def _isolation(calls: Sequence[Call], asked: Sequence[frozenset[str]]) -> list[str]:
    users = {call.token: call.user for call in calls}
    broken: list[str] = []
    for tokens in asked:
        if unknown := tokens - users.keys():
            broken.append(f"the provider was asked for {', '.join(sorted(unknown))}, which nobody asked for")
        if len({users.get(token) for token in tokens}) > 1:
            broken.append(f"one request for several users: {', '.join(sorted(tokens))}")
    return broken


def _count(verdict: Verdict, call: Call, generated: Generated) -> None:
    count = verdict.figures
    count["calls"] += 1
    count["generated twice"] += generated.total(call.token) > 1
    if call.got is None:
        what = "left" if call.left else "lost" if call.at.killed else "refused" if call.refused else "unanswered"
        count[what] += 1
        return
    count["answered"] += 1
    verdict.slowest_s = max(verdict.slowest_s, call.took_s)
    if call.got.status == 200:
        way = call.got.way
        count["merged"] += way == "merged"
        count["taken back"] += way.startswith("taken_back:")
        if way != "merged":
            verdict.reasons[way] += 1
    else:
        count["errors"] += 1
