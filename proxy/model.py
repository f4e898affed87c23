"""The values that travel through the house: frozen, without behaviour beyond what they are; they know no I/O.

Token counts are integers; times in seconds (`_s`) or milliseconds (`_ms`) as the names say. What holds a prompt or a
secret stays out of every repr.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NewType

from proxy.errors import ProxyError
from proxy.policy import Checks, MergePolicy, Mode, WindowPolicy

Json = dict[str, Any]
"""An opaque JSON object."""

CallId = NewType("CallId", str)
BatchId = NewType("BatchId", str)
BatchKey = NewType("BatchKey", str)
"""A digest: calls with equal keys may share a batch (contract 5)."""

Shape = Literal["tool", "json_schema", "json_object", "text"]
Scope = Literal["user", "identical"]
ToolForce = Literal["name", "required", "auto"]
"""How the caller's own request asks for its tool."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A credential; its repr shows nothing."""

    value: str = field(repr=False)


ACCOUNT = ("openai-organization", "openai-project", "openai-beta")
"""Headers that go upstream and change what is answered or who pays."""
PAYER = frozenset({"openai-organization", "openai-project"})
"""Those of them that belong to a key: they go with the caller's own alone, and who pays for the operator's is not a caller's to say."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling, as access established it."""

    key_digest: str
    """Keyed digest of the API key that came with the call; equal keys have equal digests; empty: no key came."""
    name: str | None = None
    """The name that the configuration gives the key; safe to log."""
    bearer: Secret | None = None
    """The caller's own credential, for entries with `api_key: caller` alone."""
    account: tuple[tuple[str, str], ...] = ()
    """Headers of the call that say upstream who pays and which features are asked for; equal within a batch."""


@dataclass(frozen=True, slots=True)
class Call:
    """One accepted HTTP call: the raw body and what was read from it."""

    id: CallId
    path: str
    """Normalised, with `/v1`."""
    query: str
    headers: Mapping[str, str] = field(repr=False)
    """Lower-case names."""
    raw: bytes = field(repr=False)
    body: Json = field(repr=False)
    caller: Caller
    method: str = "POST"
    alias: str | None = None
    """Where it goes if not to the alias that its body names: paths that the configuration opens, whose bodies may name none."""


SITE_APP = 16
"""So many characters of a site's digest are those of its app: equal for all sites of an API key and model."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """A call recognised as asking for one lesson; all that merging and splitting need, and no credential."""

    id: CallId
    body: Json = field(repr=False)
    """A chat body: as the caller wrote it, or of equal meaning where the call came by another API."""
    model: str
    """The alias it goes to (the rule's, else the caller's)."""
    shape: Shape
    rule: str
    mode: Mode
    subject: str = field(repr=False)
    topic: str = field(repr=False)
    user: str | None = field(repr=False)
    """As the caller named it; None where no source names one."""
    scope: Scope
    key: BatchKey
    identity_digest: str = field(repr=False)
    """Digest of the whole body less stream, stream_options and token limit: equal means identical calls."""
    schema: Json | None = field(repr=False)
    """The caller's own schema of one lesson: a tool's parameters or a json_schema's schema; None for json_object, text."""
    schema_name: str | None
    """The tool's or json_schema's name."""
    force: ToolForce | None
    """None but for tools."""
    token_limit: int | None
    token_limit_field: str | None
    """`max_tokens` or `max_completion_tokens`, as the caller named it."""
    stream: bool
    include_usage: bool
    window: WindowPolicy = field(repr=False)
    merge: MergePolicy = field(repr=False)
    checks: Checks = field(repr=False)
    expect: int | None = None
    """`x-lesson-expect`."""
    max_wait_ms: int | None = None
    """`x-lesson-max-wait-ms`: shortens the wait."""
    deadline_s: float | None = None
    """Seconds from arrival after which the client gives up, where it says so."""
    retry_count: int = 0
    """`x-stainless-retry-count`."""
    site: str = ""
    """Digest of where in which app the call is made: API key, model, system text, schema. The first `SITE_APP` characters
    tell the key and model alone."""
    deterministic: bool = False
    """Temperature 0: an identical call expects the same answer, so it never stands beside its twin in a batch."""


@dataclass(frozen=True, slots=True)
class Unbatchable:
    """A call that goes through as it is. `rule` is set where it looked like a lesson (its answer then says why not)."""

    reason: str
    rule: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What the batcher asks of the window for one call: limits and expectations, all known beforehand."""

    max_wait_s: float
    max_size: int
    expect: int | None = None
    lesson_s: float = 0.0
    """Expected seconds to write this lesson; 0: the model has not been measured, so no time bound."""
    max_added_s: float = float("inf")
    """The most expected seconds that lessons written before this one may take."""
    tokens: int = 0
    """What this lesson adds to the batch's output limit."""
    max_tokens: int | None = None
    """The model's output limit."""
    streaming: bool = False
    deadline_s: float | None = None
    """Seconds from joining; earliest stand first in the batch."""
    idle_s: float | None = None
    """The window closes when nobody has come for so long after this call; None: at its bound."""


Closed = Literal["time", "idle", "full", "expected", "no_room", "drain", "ahead"]
"""What closed a window; `ahead`: there was none, one call was sent as several."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A sealed window of two or more: what goes upstream as one call, in the order in which lessons are asked for."""

    id: BatchId
    key: BatchKey
    lessons: tuple[Lesson, ...]
    closed_by: Closed
    caller: Caller
    """Whose credential it goes with where the entry says `api_key: caller`; all share the same API key."""


LARGEST_COUNT = 2**53
"""What every client's JSON can still hold; no real call counts as many tokens."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts, never negative."""

    prompt: int = 0
    completion: int = 0
    reasoning: int = 0
    """Part of completion."""
    cached: int = 0
    """Part of prompt."""

    def __add__(self, other: Usage) -> Usage:
        """Add count by count."""
        return Usage(
            self.prompt + other.prompt,
            self.completion + other.completion,
            self.reasoning + other.reasoning,
            self.cached + other.cached,
        )


@dataclass(frozen=True, slots=True)
class Merged:
    """What an answered or failed call is told of the batch it was in."""

    batch_id: BatchId
    size: int


@dataclass(frozen=True, slots=True)
class Completed:
    """A lesson that arrived in a batch and passed its checks."""

    id: CallId
    content: str = field(repr=False)
    """The model's own text: JSON of the lesson, or the lesson's text for shape `text`."""
    model: str
    """As upstream reports it."""
    usage: Usage
    estimated: bool
    """The usage was counted here before upstream told."""
    input_tokens_saved: int
    batch: Merged


@dataclass(frozen=True, slots=True)
class Failed:
    """A lesson that its batch did not bring: its caller's own request goes alone, once."""

    id: CallId
    reason: str
    """Short and greppable: `missing`, `schema`, `cut_off`, `upstream_5xx`, …"""
    spent: Usage
    """Its share of the batch."""
    batch: Merged


@dataclass(frozen=True, slots=True)
class Refused:
    """Upstream's word for the whole batch that going alone would not change: the caller gets this error."""

    id: CallId
    error: ProxyError
    batch: Merged


@dataclass(frozen=True, slots=True)
class Alone:
    """The window sends this call upstream as its caller wrote it."""

    reason: str
    """`alone`, `windows_full`, `draining`, …"""


NO_COMPANY = Alone("alone")
"""The window closed, and nobody else was in it."""

Outcome = Completed | Failed | Refused | Alone


@dataclass(frozen=True, slots=True)
class Held:
    """What the window made of one call, and how long it kept the call."""

    outcome: Outcome
    wait_s: float = 0.0
    """Seconds from joining until the window closed; the time upstream is not in it."""


Carrier = Literal["tool", "json_schema", "json_object"]
EntryForm = Literal["reference", "inline", "array"]
"""`reference`: an object with one property a lesson, each a `$ref` to the one schema; `inline`: the same with the schema
written out in each; `array`: items with a key, the schema written out once."""


@dataclass(frozen=True, slots=True)
class Capability:
    """What a deployment's provider and model can do, as merging needs to know it (upstream/capabilities)."""

    force: Literal["name", "required", "none"] = "name"
    """How a tool can be forced."""
    force_while_thinking: bool = True
    """A tool can be forced too where the request asks for thinking."""
    json_schema: bool = True
    json_object: bool = True
    entries: EntryForm = "reference"
    """How the batch's schema lays out the lessons."""
    open_objects: bool = True
    """A schema may hold an object without naming its members."""
    strict: bool = False
    """json_schema / tools are sent with `strict: true` limits where the caller asked for strict."""
    strict_levels: int | None = None
    """The most levels of objects and arrays in a strict schema; None: no limit is known."""
    strict_properties: int | None = None
    """The most properties in a strict schema, all objects together."""
    bounded_strings: bool = False
    """Every string needs a maxLength and every property must be required (llama.cpp grammars)."""
    loose_items: bool = False
    """The provider validates arguments itself and fails the whole call: send loose item schemas."""
    stream: bool = True
    streamed_arguments: bool = True
    """A tool's arguments are streamed as they are written; else they come in one piece when all is written."""
    streamed_format: bool = True
    """The same of content that a `response_format` asks for."""
    usage_in_stream: bool = True
    """`stream_options.include_usage` is accepted and answered."""
    parallel_tool_calls: bool = True
    """The parameter `parallel_tool_calls` is accepted."""
    token_limit_field: str | None = None
    """Where set, the token limit must go under this name."""
    default_output_tokens: int | None = None
    """What the provider writes at most where a request names no limit; None: as much as the model can."""
    responses: bool | None = None
    """It has the Responses API; None: its server's own answer will tell."""
    max_output_tokens: int | None = None

    def comes_whole(self, carrier: Carrier) -> bool:
        """Tell whether a batch's answer is all written before any of it arrives."""
        return not (self.stream and (self.streamed_arguments if carrier == "tool" else self.streamed_format))


@dataclass(frozen=True, slots=True)
class Price:
    """What a model's tokens cost, in USD each."""

    input_usd: float
    output_usd: float

    def of(self, input_tokens: float, output_tokens: float) -> float:
        """Return what so many tokens cost; counts below 0 are savings given back."""
        return input_tokens * self.input_usd + output_tokens * self.output_usd


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where one batch goes: picked before anything is built, since what it can do decides the body."""

    id: str
    model: str
    provider: str
    capability: Capability
    price: Price | None = None
    """None: not known."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One thing that upstream said while a batch streams."""

    kind: Literal["arguments", "content"] = "content"
    text: str = field(default="", repr=False)
    call: int = 0
    """Which tool call `arguments` are of: those of several may come by turns."""
    opens: bool = False
    """A new tool call begins with this piece."""
    finish_reason: str | None = None
    usage: Usage | None = None
    model: str | None = None
    refused: bool = False
    """Upstream said that it refuses or filtered the content."""


async def _nothing() -> None: ...


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer on its way to the caller: either `body`, or `chunks` (then `close` must be awaited in the end)."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(default=b"", repr=False)
    chunks: AsyncIterator[bytes] | None = field(default=None, repr=False)
    close: Callable[[], Awaitable[None]] = field(default=_nothing, repr=False)
