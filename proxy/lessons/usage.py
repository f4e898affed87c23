"""Shares of one batch's usage: who is told how many tokens; it knows neither prices nor tokenizers."""

from __future__ import annotations

from proxy.model import Usage


class Accounts:
    """Divides a batch's usage among its calls, each of which claims once or forgoes its share once.

    Before upstream has told its usage a share is an estimate; afterwards it is part of what then remains, and the last
    open call gets all the rest. Every share is non-negative, and shares + `unassigned` = the batch's usage, always.
    """

    __slots__ = ("_assigned", "_forgone", "_open", "_prompt_estimate", "_size", "_usage")

    def __init__(self, size: int, prompt_estimate: int) -> None:
        """Open the accounts of `size` calls whose common prompt is estimated at `prompt_estimate` tokens."""
        self._size = size
        self._open = size
        self._prompt_estimate = max(0, prompt_estimate)
        self._usage: Usage | None = None
        self._assigned = Usage()
        self._forgone = Usage()

    @property
    def settled(self) -> bool:
        """Tell whether the batch's usage is known: shares claimed from now on are no estimates."""
        return self._usage is not None

    @property
    def usage(self) -> Usage:
        """Return the batch's usage; nothing before it is settled."""
        return self._usage or Usage()

    @property
    def open(self) -> int:
        """Return how many calls have neither claimed nor forgone."""
        return self._open

    @property
    def unassigned(self) -> Usage:
        """Return the batch's usage less all shares; a count is below zero where estimates were too high."""
        return _less(self._usage or Usage(), self._assigned)

    def settle(self, usage: Usage) -> None:
        """Take the batch's usage as upstream told it; told again, the later word counts."""
        self._usage = usage

    def claim(self, completion_estimate: int = 0, *, rest: bool = True) -> Usage:
        """Return the share of one call whose entry is estimated at `completion_estimate` tokens.

        `rest=False`: its completion is no more than that even where it is the last (a call that the batch failed).
        Raises ValueError where every call has had its share.
        """
        share = self._share(max(0, completion_estimate), rest=rest)
        self._assigned += share
        return share

    def forgo(self, completion_estimate: int = 0) -> None:
        """Leave the share of one call whose caller has gone unassigned; raises ValueError as `claim` does."""
        self._forgone += self._share(max(0, completion_estimate), rest=True)

    def _share(self, completion: int, *, rest: bool) -> Usage:
        if self._open == 0:
            raise ValueError("every call of the batch has had its share")
        left, self._open = self._open, self._open - 1
        if self._usage is None:
            return Usage(prompt=_even(self._prompt_estimate, self._size, self._size - left), completion=completion)
        remains = _at_least_zero(_less(_less(self._usage, self._assigned), self._forgone))
        return _part(remains, left, remains.completion if rest and left == 1 else completion)


def _part(remains: Usage, left: int, completion: int) -> Usage:
    """Return one of `left` parts of what remains: an even part of the prompt, its own completion where that is there."""
    prompt = _even(remains.prompt, left, 0)
    completion = min(completion, remains.completion)
    return Usage(
        prompt,
        completion,
        reasoning=min(completion, _proportional(remains.reasoning, completion, remains.completion)),
        cached=min(prompt, _proportional(remains.cached, prompt, remains.prompt)),
    )


def _even(total: int, parts: int, k: int) -> int:
    """Return the k-th of `parts` whole parts of `total`; together they are `total`."""
    return total * (k + 1) // parts - total * k // parts


def _proportional(total: int, part: int, whole: int) -> int:
    return total * part // whole if whole else 0


def _less(a: Usage, b: Usage) -> Usage:
    return Usage(a.prompt - b.prompt, a.completion - b.completion, a.reasoning - b.reasoning, a.cached - b.cached)


def _at_least_zero(usage: Usage) -> Usage:
    return Usage(max(0, usage.prompt), max(0, usage.completion), max(0, usage.reasoning), max(0, usage.cached))
