"""What stops lessons from becoming one request, and the bounded copy that keeps callers' bodies untouched; it knows no provider."""

from __future__ import annotations

from typing import Any, cast

MAX_DEPTH = 100
"""Levels of a JSON value; far above what lessons need and below what serialisers refuse."""


class UnfitError(Exception):
    """These lessons can't be one request; `reason` is short and greppable and holds nothing of the callers'."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def copied(value: Any, reason: str, depth: int = MAX_DEPTH) -> Any:
    """Return a deep copy of a JSON value; UnfitError(reason) where it is more than `depth` levels deep."""
    if isinstance(value, dict | list) and depth == 0:
        raise UnfitError(reason)
    if isinstance(value, dict):
        return {name: copied(part, reason, depth - 1) for name, part in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [copied(part, reason, depth - 1) for part in cast("list[Any]", value)]
    return value
