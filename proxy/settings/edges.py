"""The parts of the file about the proxy's edges: who may call, which paths, how much at once, what is logged."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr

from proxy.settings.section import Name, Section


class ApiKey(Section):
    """One key that opens the proxy."""

    name: Name
    """Stands in logs and figures in the key's place."""
    key: Annotated[SecretStr, Field(min_length=1)]
    """The bearer that callers send; `os.environ/NAME`."""
    limits: dict[str, Any] | None = None
    """Not built in this release."""


class Access(Section):
    """Who may call."""

    mode: Literal["open", "keys"] = "open"
    """open: whoever reaches the port; keys: whoever sends one of `keys`."""
    keys: tuple[ApiKey, ...] = ()


class Redis(Section):
    """Where several processes share their windows."""

    url: SecretStr | None = None
    """null: one process, nothing else needed. redis://, rediss:// (TLS), unix://, redis+cluster:// or rediss+cluster:// with
    the nodes separated by commas; user and password as in any URL. What the user needs: `~lesson-proxy:* &lesson-proxy:*`."""
    secret: Annotated[SecretStr, Field(min_length=1)] | None = None
    """What contents are encrypted with and names are made of; the same for all that share. `os.environ/NAME`."""
    timeout_ms: Annotated[int, Field(ge=5, le=1000)] = 50
    """Milliseconds after which an unanswered command has failed: calls then wait in their own process until Redis is back."""


class Passthrough(Section):
    """A further path that is forwarded, by its name."""

    path: Annotated[str, Field(pattern=r"^/v1/[A-Za-z0-9_./-]*[A-Za-z0-9_-]$")]
    """As `/v1/files`."""
    methods: Annotated[tuple[Literal["GET", "POST", "PUT", "PATCH", "DELETE"], ...], Field(min_length=1)] = ("POST",)
    model: Name
    """The alias whose deployment it goes to."""


class Bounds(Section):
    """The most of everything; past it calls go alone or are refused, never queued without end."""

    body_mb: Annotated[float, Field(gt=0, le=1024)] = 32
    """Largest request body, in megabytes (1,048,576 bytes); larger: 413."""
    bodies_mb: Annotated[float, Field(gt=0, le=1_048_576)] = 256
    """Megabytes of long request bodies (those that come in several pieces) held at one time; one more: 503 with `retry-after`."""
    waiting_calls: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Calls that wait in windows at one time; one more goes alone."""
    open_windows: Annotated[int, Field(ge=1, le=1_000_000)] = 2_000
    """Windows open at one time; a call that would open one more goes alone."""
    upstream_slots: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    """Calls upstream at one time; one more: 503 with `retry-after`."""


class Log(Section):
    """What the process says while it runs."""

    format: Literal["auto", "json", "console"] = "auto"
    """auto: console on a terminal, else JSON, one object a line."""
    level: Literal["debug", "info", "warning", "error"] = "info"
