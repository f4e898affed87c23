"""Whose merging rests: the accounts of call sites, of apps (an API key's sites with one model) and of whole models.

Blame stays as narrow as it can: what a site's own account finds out is forgotten by its app's, and what an app's does by the
model's. So nobody's failures alone put the merging of others to rest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from proxy.model import SITE_APP, Lesson
from proxy.sites.standing import ENOUGH_OF_MANY, ENOUGH_OF_SITE, SMALLER_S, BatchResult, Standing, Turn


@dataclass(frozen=True, slots=True)
class Rest:
    """No merging for this lesson now: `merging_rests` (its model's), `app_rests`, `site_rests`, `too_slow`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Rested:
    """Merging rests from now on, or batches are smaller: what listeners are told."""

    model: str
    site: str | None
    """The call site alone, or (the first part of its digest) its app; None: the whole model."""
    reason: str
    seconds: float
    max_size: int
    """1: no merging."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """Merging is back after its trial; `site` as in Rested."""

    model: str
    site: str | None


@dataclass(frozen=True, slots=True)
class _Level:
    """One of the accounts that a batch stands in."""

    name: str
    site: str | None
    """What listeners are told."""
    enough: int
    rests: str
    """Why a lesson isn't held while it rests."""


class Standings:
    """At most `most` accounts; the one that was taught longest ago is forgotten."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: OrderedDict[str, Standing] = OrderedDict()

    def __len__(self) -> int:
        """Return how many accounts there are."""
        return len(self._known)

    def resting(self, lesson: Lesson, now: float) -> Rest | None:
        """Say why this lesson isn't to be merged now; None: it may be, on trial or not."""
        admitting: list[Standing] = []
        for level in _levels(lesson.model, lesson.site):
            standing = self._known.get(level.name)
            if standing and not standing.admits(lesson.key, now):
                for narrower in admitting:
                    narrower.release(lesson.key)
                return Rest(level.rests)
            admitting += [standing] if standing else []
        return None

    def take(self, result: BatchResult, now: float) -> tuple[Rested | Resumed, ...]:
        """Take in one batch's result; returns whose merging rests from now on, or is back."""
        told: list[Rested | Resumed] = []
        rested: str | None = None
        for level in _levels(result.model, result.site):
            standing = self._of(level)
            if rested is not None:
                standing.forget(rested)
                standing.release(result.key)
            elif turn := standing.take(result, now):
                told.append(_told(result.model, level.site, turn))
                rested = level.site if turn.seconds else None
        return tuple(told)

    def release(self, lesson: Lesson) -> None:
        """Give the lesson's places on trial back: it found no company."""
        for level in _levels(lesson.model, lesson.site):
            if standing := self._known.get(level.name):
                standing.release(lesson.key)

    def shrink(self, model: str, size: int, now: float) -> Rested | None:
        """Make the model's batches at most half of this one's size for a while; None: they are so small already."""
        largest = self._of(_of_model(model)).shrink(size, now)
        return None if largest is None else Rested(model, None, "too_large", SMALLER_S, largest)

    def largest(self, model: str, max_size: int, now: float) -> int:
        """Return how many calls a batch of this model may have."""
        standing = self._known.get(_of_model(model).name)
        return standing.largest(max_size, now) if standing else max_size

    def _of(self, level: _Level) -> Standing:
        standing = self._known.get(level.name)
        if standing is None:
            standing = self._known[level.name] = Standing(level.enough)
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        self._known.move_to_end(level.name)
        return standing


def _levels(model: str, site: str) -> Iterator[_Level]:
    """Yield the accounts from the narrowest on; names of different kinds are never equal."""
    app = site[:SITE_APP]
    yield _Level(f"site {site}", site, ENOUGH_OF_SITE, "site_rests")
    yield _Level(f"app {app}", app, ENOUGH_OF_MANY, "app_rests")
    yield _of_model(model)


def _of_model(model: str) -> _Level:
    return _Level(f"model {model}", None, ENOUGH_OF_MANY, "merging_rests")


def _told(model: str, site: str | None, turn: Turn) -> Rested | Resumed:
    return Rested(model, site, turn.reason, turn.seconds, 1) if turn.seconds else Resumed(model, site)
