"""What became of one batch, added up over its portions and attempts; it decides nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from proxy.model import Batch, Carrier, Deployment, Price, Usage
from proxy.observe.events import BatchFinished
from proxy.sites import BatchResult


@dataclass(slots=True)
class Spent:
    """One merged call by our own counting, in tokens."""

    delivered: int = 0
    """Completion of the lessons that were handed over."""
    left: int = 0
    """Completion of lessons whose callers had left."""
    thrown: int = 0
    """Completion of everything else that was read."""
    lone_prompt: int = 0
    """What the prompts of the delivered lessons would have been alone."""
    left_prompt: int = 0


@dataclass(slots=True)
class Ledger:
    """Counts of one batch. Times are seconds of the dispatcher's clock."""

    batch: Batch
    started_s: float
    deployment: Deployment | None = None
    carrier: Carrier | None = None
    completed: int = 0
    failed: Counter[str] = field(default_factory=Counter[str])
    refused: int = 0
    left: int = 0
    dropped: Counter[str] = field(default_factory=Counter[str])
    usage: Usage = field(default_factory=Usage)
    estimated: bool = False
    unassigned: Usage = field(default_factory=Usage)
    lone_prompt: int = 0
    """Input tokens that the completed lessons would have cost alone."""
    left_prompt: int = 0
    """The same of lessons that came when their callers had left."""
    wasted: int = 0
    """Completion tokens (a part of upstream's) of what was no lesson."""
    left_wasted: int = 0
    """Those of lessons whose callers had left."""
    lessons: int = 0
    """Whole lessons that came, handed over or not."""
    failure: str | None = None
    """Why a merged call failed as such."""
    abandoned: bool = False
    """Its callers left in the middle: what came of it says nothing of merging."""
    first_token_s: float | None = None
    retries: int = 0
    error: str | None = None

    def add(self, spent: Spent, usage: Usage, prompt_estimate: int) -> None:
        """Close the account of one merged call: `usage` as upstream told it, the prompt's estimate of our counting."""
        self.usage += usage
        self.lone_prompt += scaled(spent.lone_prompt, usage.prompt, prompt_estimate)
        self.left_prompt += scaled(spent.left_prompt, usage.prompt, prompt_estimate)
        written = spent.delivered + spent.left + spent.thrown
        self.wasted += usage.completion * spent.thrown // written if written else usage.completion
        self.left_wasted += usage.completion * spent.left // written if written else 0

    def event(self, now: float) -> BatchFinished:
        """Return the batch's end as an event."""
        first = self.batch.lessons[0]
        return BatchFinished(
            batch_id=self.batch.id,
            model=first.model,
            deployment=self.deployment.id if self.deployment else "",
            provider=self.deployment.provider if self.deployment else "",
            carrier=self.carrier,
            closed_by=self.batch.closed_by,
            size=len(self.batch.lessons),
            completed=self.completed,
            failed=tuple(sorted(self.failed.items())),
            refused=self.refused,
            left=self.left,
            dropped=tuple(sorted(self.dropped.items())),
            usage=self.usage,
            usage_estimated=self.estimated,
            unassigned=self.unassigned,
            wasted_completion=self.wasted + self.left_wasted,
            input_tokens_saved=self._saved,
            saved_usd=None if self._price is None else self._price.of(self._saved, -self.wasted - self.left_wasted),
            first_token_s=self.first_token_s,
            total_s=now - self.started_s,
            retries=self.retries,
            error=self.error,
        )

    def result(self) -> BatchResult:
        """Return what the batch says of merging; a lesson whose caller had left cost what it would have cost alone."""
        first = self.batch.lessons[0]
        return BatchResult(
            model=first.model,
            site=first.site,
            key=self.batch.key,
            lessons=self.lessons,
            saved=self._saved + self.left_prompt,
            wasted=self.wasted,
            price=self._price,
            failure=self.failure,
            counts=not self.abandoned and (self.failure is not None or self.usage != Usage()),
        )

    @property
    def _saved(self) -> int:
        return self.lone_prompt - self.usage.prompt

    @property
    def _price(self) -> Price | None:
        return self.deployment.price if self.deployment else None


def scaled(tokens: int, told: int, estimated: int) -> int:
    """Return tokens of our counting in upstream's, which told `told` for what we had `estimated`."""
    return round(tokens * told / estimated) if told and estimated else tokens
