"""What a window must know of a call that comes, and what is decided by that call alone, whoever else waits."""

from __future__ import annotations

from typing import Protocol

from proxy.model import BatchKey, CallId, Plan


class Entrant(Protocol):
    """What the book must know of a call beside its plan; a Lesson is one."""

    @property
    def id(self) -> CallId:
        """The call's name among all that wait."""
        ...

    @property
    def key(self) -> BatchKey:
        """Whom it may be with."""
        ...

    @property
    def identity_digest(self) -> str:
        """Equal for identical calls."""
        ...

    @property
    def deterministic(self) -> bool:
        """It expects the same answer as its twin."""
        ...


def refusal(plan: Plan) -> str | None:
    """Say why a call with this plan goes alone wherever it comes (rule 2); None: it may wait."""
    if plan.max_size <= 1 or plan.max_wait_s <= 0 or (plan.expect is not None and plan.expect <= 1):
        return "alone"
    if wait_bound_s(plan) <= 0:
        return "deadline"
    if plan.max_tokens is not None and plan.tokens >= plan.max_tokens:
        return "output_limit"
    return None


def wait_bound_s(plan: Plan) -> float:
    """Return how long this call may wait at most: its lesson must still be done before its own deadline."""
    return plan.max_wait_s if plan.deadline_s is None else min(plan.max_wait_s, plan.deadline_s - plan.lesson_s)
