"""What happened, as frozen events: one a call and one a batch, and one for what went wrong between; nothing else is told.

No event holds a prompt, a key or a user id in clear: listeners may print every field.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from proxy.model import BatchId, CallId, Carrier, Closed, Usage


@dataclass(frozen=True, slots=True)
class CallFinished:
    """One call got its terminal answer, or left."""

    call_id: CallId
    path: str
    model: str
    status: int
    """HTTP status; 499: the caller left."""
    way: Literal["merged", "resent", "alone", "passed", "refused"]
    """merged: answered from a batch; resent: alone after its batch failed it; alone: a lesson without companions;
    passed: no lesson; refused: ended by an error of ours before upstream."""
    reason: str | None
    """Why not merged."""
    error: str | None
    """Code (else type) of the error that it got; None where it got none, or the provider's own answer."""
    rule: str | None
    would_merge: bool
    """Recognised while merging is off for it (dry_run, share)."""
    stream: bool
    key: str | None
    """First 12 characters of the batch key: equal for calls that belong together."""
    key_name: str | None
    """The configured name of the caller's API key."""
    batch_id: BatchId | None
    batch_size: int
    wait_ms: float
    """Time in the window."""
    total_ms: float
    usage: Usage | None
    """What the caller was told; None where nobody counted."""
    estimated: bool
    input_tokens_saved: int


@dataclass(frozen=True, slots=True)
class BatchFinished:
    """One batch was settled."""

    batch_id: BatchId
    model: str
    deployment: str
    provider: str
    carrier: Carrier | None
    """None: nothing was sent."""
    closed_by: Closed
    size: int
    completed: int
    failed: tuple[tuple[str, int], ...]
    """Reasons of resends, each with its number of calls."""
    refused: int
    """Callers that got upstream's error for the whole batch."""
    left: int
    """Callers that left before their lesson came."""
    dropped: tuple[tuple[str, int], ...]
    """Entries thrown away: `doubled`, `unknown`, `late`, …"""
    usage: Usage
    usage_estimated: bool
    """Upstream told no usage: counted here."""
    unassigned: Usage
    """Upstream's usage less the shares of the callers; a count may be below zero where estimates were too high."""
    wasted_completion: int
    """Completion tokens (estimated) of entries that nobody got."""
    input_tokens_saved: int
    """Net of the prompts of lessons that go alone after all; may be negative."""
    saved_usd: float | None
    """Money saved, net of `wasted_completion` too; may be negative. None: the deployment's prices are not known."""
    first_token_s: float | None
    total_s: float
    retries: int
    error: str | None
    """Code of upstream's error, where it ended the batch."""


@dataclass(frozen=True, slots=True)
class LessonWasted:
    """A lesson that was asked for ahead was thrown away: no call came for it. Its batch counted it as completed."""

    model: str
    usage: Usage
    """Its share of the batch."""
    input_tokens_saved: int
    """Below 0: takes back what the batch counted for it."""
    saved_usd: float | None
    """Below 0; None: the price is not known."""


@dataclass(frozen=True, slots=True)
class MergingRested:
    """Merging rests, or batches are smaller, for a while."""

    model: str
    site: str | None
    """The call site alone, as a digest, or its first 16 characters: all sites of that API key and model. None: the whole model."""
    reason: str
    """`no_saving`, `too_large`, or why the last batch failed."""
    seconds: float
    max_size: int
    """1: no merging."""


@dataclass(frozen=True, slots=True)
class MergingResumed:
    """Merging is back: what was tried after a rest was worth it; `site` as above."""

    model: str
    site: str | None


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The process changed what it does: ready, draining, stopped, configuration reloaded or refused."""

    state: Literal[
        "ready",
        "draining",
        "stopped",
        "reloaded",
        "reload_refused",
        "start_failed",
        "embedded_provider",
        "danger",
        "sharing",
        "sharing_lost",
        "worker_lost",
    ]
    """sharing: windows are shared through Redis; sharing_lost: each process has its own until Redis is back.
    worker_lost: one of several processes ended unasked, and is started anew."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Faulted:
    """Something of our own broke: its caller got a 500, or nobody noticed but this event.

    What the exception says is left out, since it may quote a prompt or a key; kind and frames tell where to look.
    """

    where: str
    """Which border caught it: `edge`, `listener`, …"""
    kind: str
    """The exception's class."""
    frames: tuple[str, ...]
    """`file:line function`, the innermost last."""
    call_id: CallId | None = None


@dataclass(frozen=True, slots=True)
class WindowShared:
    """Something happened in the windows that several processes share."""

    what: Literal["led", "joined_elsewhere", "taken_back", "late"]
    """led: a window opened here went off as a batch; joined_elsewhere: a call waits in another process's window;
    taken_back: a call goes alone that a shared window did not serve; late: an outcome came after that, and was dropped."""
    reason: str = ""
    """Why it was taken back."""
    size: int = 0
    others: int = 0
    """Calls of other processes in a window that was led."""


@dataclass(frozen=True, slots=True)
class StoreAsked:
    """One round trip to Redis."""

    commands: int
    seconds: float


Event = CallFinished | BatchFinished | LessonWasted | MergingRested | MergingResumed | StateChanged | WindowShared | StoreAsked | Faulted
