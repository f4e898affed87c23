"""What whoever starts the provider may choose; frozen values."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypedDict

_CHARS_TIMED = 4
_CHARS_AT_ONCE = 256


class Choices(TypedDict, total=False):
    """The keyword arguments of `create_provider` and `Provider.running`; what is left out has the value of Options."""

    tokens_per_second: float | None
    first_token_s: float
    seed: int
    api_key: str | None
    dialect: str
    content_words: int
    delta_chars: int | None
    models: tuple[str, ...]
    record: int
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Options:
    """How the provider behaves."""

    tokens_per_second: float | None = None
    """Speed of writing; None: as fast as the machine can."""
    first_token_s: float = 0.0
    """Seconds before the first token."""
    seed: int = 0
    """Equal seeds and requests, in the same order, give equal answers."""
    api_key: str | None = field(default=None, repr=False)
    """The only key that is let in; None: any, or none."""
    dialect: str = "plain"
    """The dialect (of `dialects.DIALECTS`) of models whose names begin with none."""
    content_words: int = 90
    """Words of a text, and of members such as `content`, at least."""
    delta_chars: int | None = None
    """Characters a streamed event; None: 4 (about a token) where tokens take time, else 256."""
    models: tuple[str, ...] = ("lesson-model", "instant")
    """What `GET /v1/models` lists; requests may name any model."""
    record: int = 0
    """How many of the last request bodies are kept for `/stats`; 0: none, and no prompt stays in memory."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    @property
    def chars(self) -> int:
        """Return the characters a streamed event."""
        return self.delta_chars or (_CHARS_AT_ONCE if self.tokens_per_second is None else _CHARS_TIMED)

    async def until(self, started: float, tokens: float) -> None:
        """Wait until `tokens` tokens of an answer to a request that came at `started` are due."""
        writing = tokens / self.tokens_per_second if self.tokens_per_second else 0.0
        early = started + self.first_token_s + writing - self.clock()
        if early > 0:
            await self.sleep(early)
