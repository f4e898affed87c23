"""Whether merging pays for one call site, app or model, and when it rests: the account of its last batches.

Every batch that was sent gives a sample: what it saved, net of what was written for nobody and of the prompts of lessons that
went alone after all. Merging rests where the last samples add up to nothing saved, or where batches keep bringing no lesson at
all. After a rest a few batch keys are tried, one result each; what they bring decides between resting longer and all.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from math import inf

from proxy.model import BatchKey, Price

_FAILURES = 3
"""Batches in a row without a single lesson after which merging rests."""
_SAMPLES = 32
ENOUGH_OF_SITE, ENOUGH_OF_MANY = 12, _SAMPLES
"""Batches before their sum says anything: one bad entry in twenty costs as much as four batches save. That of several sites says
less, for it may be the fault of one, which should be found out first."""
_TRIED = 4
"""Results of a trial that decide it. One that brings no lesson at all decides it at once."""
_TRIALS = 3
"""Batch keys that are tried at one time."""
_TRIAL_S = 120.0
"""How long a key on trial may take until its place is another's."""
_FIRST_REST_S = 60.0
_LONGEST_REST_S = 900.0
_MOST_DOUBLINGS = 10
SMALLER_S = 300.0
"""How long batches stay smaller after one was too large."""
USUAL_PRICE = Price(1.0, 4.0)
"""In input tokens, where no price is known: the usual ratio of price lists."""

NO_SAVING = "no_saving"
"""Why merging rests whose batches bring lessons, and save nothing."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What one batch came to, as those need it who decide whether the next one is worth it."""

    model: str
    site: str
    key: BatchKey
    lessons: int
    """Whole lessons that it brought, also for callers that had left."""
    saved: int
    """Input tokens that these lessons would have cost alone, less the batch's; may be negative."""
    wasted: int
    """Completion tokens of entries that were no lesson."""
    price: Price | None = None
    failure: str | None = None
    """Why the batch failed as such, where it did."""
    counts: bool = True
    """False: it says nothing of merging (its callers left, or upstream wanted nothing of anybody)."""

    @property
    def net_usd(self) -> float | None:
        """Return the money saved; None: no price is known."""
        return None if self.price is None else self.price.of(self.saved, -self.wasted)

    @property
    def net_tokens(self) -> float:
        """Return what was saved in input tokens, output weighed as its price usually is."""
        return USUAL_PRICE.of(self.saved, -self.wasted)

    @property
    def failed(self) -> bool:
        """Tell whether it failed without bringing anything."""
        return self.failure is not None and self.lessons == 0


@dataclass(frozen=True, slots=True)
class Turn:
    """Merging rests from now on; `seconds` 0: it is back after its trial."""

    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class _Sample:
    """What one batch saved."""

    site: str
    tokens: float
    usd: float | None


@dataclass(slots=True)
class Standing:
    """The account of one site, app or model; `enough`: so many samples are judged by."""

    enough: int = ENOUGH_OF_SITE
    samples: deque[_Sample] = field(default_factory=lambda: deque[_Sample](maxlen=_SAMPLES))
    failures: list[str] = field(default_factory=list[str])
    """The sites of the batches that failed in a row."""
    rests: int = 0
    """Rests since merging last paid for long; each is twice as long as the one before."""
    until: float = -inf
    on_trial: bool = False
    trials: OrderedDict[BatchKey, float] = field(default_factory=OrderedDict[BatchKey, float])
    """Keys that are tried, and until when their places are theirs."""
    smaller: int | None = None
    smaller_until: float = 0.0

    def admits(self, key: BatchKey, now: float) -> bool:
        """Tell whether calls of this key may be merged now; on trial a key that is let in takes a place."""
        if now < self.until:
            return False
        if not self.on_trial or key in self.trials:
            return True
        while self.trials and next(iter(self.trials.values())) <= now:
            self.trials.popitem(last=False)
        if len(self.trials) >= _TRIALS:
            return False
        self.trials[key] = now + _TRIAL_S
        return True

    def take(self, result: BatchResult, now: float) -> Turn | None:
        """Take in one batch's result, and say if merging rests or is back because of it."""
        tried = self.trials.pop(result.key, None) is not None
        if not result.counts or now < self.until or (self.on_trial and not tried):
            return None  # the last: it was under way when the rest began
        self.samples.append(_Sample(result.site, result.net_tokens, result.net_usd))
        self.failures = [*self.failures, result.site] if result.failed else []
        if len(self.failures) >= (1 if self.on_trial else _FAILURES):
            return self._rested(result.failure or "", now)
        if len(self.samples) >= (_TRIED if self.on_trial else self.enough) and not self._pays():
            return self._rested(NO_SAVING, now)
        if self.on_trial and len(self.samples) >= _TRIED:
            self.on_trial = False
            self.trials.clear()
            return Turn("tried", 0.0)
        if len(self.samples) == _SAMPLES:
            self.rests = 0
        return None

    def forget(self, site: str) -> None:
        """Leave out what a site or app (the first part of its sites' digests) brought that now rests by itself."""
        self.samples = deque((sample for sample in self.samples if not sample.site.startswith(site)), maxlen=_SAMPLES)
        self.failures = [name for name in self.failures if not name.startswith(site)]

    def release(self, key: BatchKey) -> None:
        """Give a place on trial back whose calls found no company."""
        self.trials.pop(key, None)

    def rest(self, seconds: float, now: float) -> None:
        """Begin a rest."""
        self.until = max(self.until, now + seconds)
        self.on_trial = True
        self.failures = []
        self.samples.clear()
        self.trials.clear()

    def shrink(self, size: int, now: float) -> int | None:
        """Make batches at most half as large as one that was too large, for a while; None: they are so small already."""
        largest = max(1, min(size // 2, self.largest(size, now)))
        changed = largest < self.largest(size, now)
        self.smaller, self.smaller_until = largest, now + SMALLER_S
        if largest == 1:
            self.rest(SMALLER_S, now)
        return largest if changed else None

    def largest(self, max_size: int, now: float) -> int:
        """Return how many calls a batch may have."""
        return min(max_size, self.smaller) if self.smaller is not None and now < self.smaller_until else max_size

    def _rested(self, reason: str, now: float) -> Turn:
        seconds = min(_FIRST_REST_S * 2**self.rests, _LONGEST_REST_S)
        self.rest(seconds, now)
        self.rests = min(self.rests + 1, _MOST_DOUBLINGS)
        return Turn(reason, seconds)

    def _pays(self) -> bool:
        """Tell whether the samples add up to something saved: in money, where every price is known."""
        money = [sample.usd for sample in self.samples if sample.usd is not None]
        return (sum(money) if len(money) == len(self.samples) else sum(sample.tokens for sample in self.samples)) > 0
