"""One answer of the model, before it takes a form on the wire; a frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Finish = Literal["stop", "tool_calls", "length", "content_filter"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one choice says."""

    text: str = field(repr=False)
    """Arguments of the tool call, else content."""
    tool: str | None
    finish: Finish
    calls: tuple[str, ...] = field(default=(), repr=False)
    """Arguments of several tool calls, in place of `text`."""
    refusal: str | None = None
    thoughts: str = field(default="", repr=False)
    """What a model that thinks tells of it beside the answer."""
    thought_tokens: int = 0
    """Part of `tokens`."""
    tokens: int = 0
