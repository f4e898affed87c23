"""Where a deployment is that takes raw bytes, as a plain value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Address:
    """Where one deployment is, resolved once."""

    base: str
    """Such as `https://api.openai.com/v1`, no slash at its end."""
    model: str
    """The name that upstream knows."""
    key: str | None = field(repr=False)
    """The operator's; None where the caller's bearer goes, or none is needed."""
    headers: Mapping[str, str] = field(repr=False)
    """Sent with every call: authorization and what the operator added."""
    callers_key: bool = False
    proxy: str | None = field(default=None, repr=False)
    """The machine's HTTP proxy for it, where there is one."""
