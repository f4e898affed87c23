"""How often and how long a lone lesson is tried again; it knows neither HTTP nor litellm."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from proxy.errors import UpstreamUnavailableError
from proxy.model import Reply

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 8.0
_JITTER = 0.25
_NEVER_AGAIN = (b"insufficient_quota",)


@dataclass(frozen=True, slots=True)
class Patience:
    """Tries a call up to `retries` times more, within `budget_s` seconds in all."""

    retries: int
    budget_s: float = 20.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    now: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random

    async def repeated(self, once: Callable[[], Awaitable[Reply]]) -> Reply:
        """Return the first answer that stands: a success, an error that repeating won't cure, or the last one.

        Network failures are raised where no try is left.
        """
        deadline = self.now() + self.budget_s
        for attempt in range(self.retries):
            try:
                reply = await once()
            except UpstreamUnavailableError as error:
                pause = self._pause(attempt, error.retry_after_s, deadline)
                if pause is None:
                    raise
            else:
                if not _worth_repeating(reply):
                    return reply
                pause = self._pause(attempt, retry_after_s(dict(reply.headers)), deadline)
                if pause is None:
                    return reply
            await self.sleep(pause)
        return await once()

    def _pause(self, attempt: int, asked_s: float | None, deadline: float) -> float | None:
        """Return the seconds to wait before the next try; None where they don't fit before the deadline."""
        base = min(_FIRST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S) if asked_s is None else asked_s
        # never earlier than asked; spread, so that calls refused together don't come back together
        pause = base * (1 + _JITTER * self.chance())
        return pause if self.now() + pause < deadline else None


def _worth_repeating(reply: Reply) -> bool:
    if reply.status != 429 and reply.status < 500:  # noqa: PLR2004 - HTTP's own numbers
        return False
    if dict(reply.headers).get("x-should-retry") == "false":
        return False
    return not any(mark in reply.body for mark in _NEVER_AGAIN)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that `retry-after-ms` or `retry-after` (seconds or a date) ask for; None where neither does."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            seconds = _until(value)
        if seconds is not None and 0 <= seconds < float("inf"):
            return seconds
    return None


def _until(date: str) -> float | None:
    try:
        moment = parsedate_to_datetime(date)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
