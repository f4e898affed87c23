"""What an operator may set about lessons, as plain frozen values; it knows neither YAML nor the environment.

These stand below `settings` so that the pure rooms can use them; pydantic validates them when it reads the file
(`__pydantic_config__` makes unknown keys an error, the bounds stand beside the types).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

Mode = Literal["on", "off", "dry_run"]
CarrierChoice = Literal["auto", "tool", "json_schema", "json_object"]
Source = str
"""Where a value is looked up: `header.NAME`, `body.NAME`, `metadata.NAME`, `label.NAME`, `json.NAME`."""

_STRICT: dict[str, Any] = {"extra": "forbid"}


class Within:
    """Bounds beside a type, under pydantic's own names (`ge`, `gt`, `le`, `min_length`): it asks for them, nothing here needs it."""

    __slots__ = ("_bounds",)

    def __init__(self, **bounds: float) -> None:
        self._bounds = bounds

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Return the type's own schema with the bounds in it."""
        return handler(source) | self._bounds


WaitMs = Annotated[int, Within(ge=0, le=60_000)]
Seconds = Annotated[float, Within(gt=0, le=86_400)]


@dataclass(frozen=True, slots=True)
class WindowPolicy:
    """How long calls wait for companions, and how many go together."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    max_wait_ms: WaitMs = 100
    max_size: Annotated[int, Within(ge=1, le=50)] = 5
    policy: Literal["fixed", "adaptive"] = "adaptive"
    """adaptive: each call site waits as long as its calls' company has taught, at most `max_wait_ms`; fixed: always so long."""
    hinted_max_wait_ms: WaitMs = 1000


@dataclass(frozen=True, slots=True)
class AheadPolicy:
    """Whether calls of a loop are sent as several, whose further lessons wait for the calls that follow."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    enabled: bool = False
    keep_seconds: Annotated[float, Within(gt=0, le=600)] = 30.0
    max_kept: Annotated[int, Within(ge=1, le=100_000)] = 500
    max_kept_mb: Annotated[float, Within(gt=0, le=1024)] = 8.0


@dataclass(frozen=True, slots=True)
class AddedSeconds:
    """The most expected seconds that siblings may add to a caller's wait."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    json: Annotated[float, Within(ge=0, le=86_400)] = 45.0
    stream: Annotated[float, Within(ge=0, le=86_400)] = 15.0


@dataclass(frozen=True, slots=True)
class MergePolicy:
    """How a batch is asked for upstream."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    carrier: CarrierChoice = "auto"
    max_added_seconds: AddedSeconds = AddedSeconds()
    first_token_seconds: Seconds = 60.0
    idle_seconds: Seconds = 30.0


@dataclass(frozen=True, slots=True)
class FieldCheck:
    """What a top-level field of a lesson must be, beyond the caller's own schema."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    min_words: Annotated[int, Within(ge=0)] = 0
    max_words: Annotated[int, Within(ge=1)] | None = None
    required: bool = False


Checks = dict[str, FieldCheck]
"""By the name of a top-level field of the lesson."""


@dataclass(frozen=True, slots=True)
class When:
    """The conditions of a rule; every one that is set must hold. An empty list or None means: not asked."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    shape: tuple[Literal["tool", "json_schema", "json_object", "text"], ...] = ()
    """The answer's shape as the request asks for it."""
    tool: str | None = None
    """The tool's (or json_schema's) name; `*` and `?` are wildcards, case is ignored."""
    tool_none: tuple[str, ...] = ()
    """The name is none of these; wildcards as in `tool`."""
    model: str | None = None
    """The model alias, with wildcards."""
    path: str | None = None
    headers: dict[str, str] = field(default_factory=dict[str, str])
    """Header names and the values they must have, with wildcards."""
    schema_any: tuple[str, ...] = ()
    """At least `schema_least` of these stand among the top-level properties of the tool or schema (case, `_`, `-` ignored).

    For `json_object` the schema is what a user message shows as the form of the answer (`Shape of the JSON: {…}`).
    """
    schema_least: Annotated[int, Within(ge=1)] = 1
    schema_none: tuple[str, ...] = ()
    """None of these stands among them."""
    prompt_any: tuple[str, ...] = ()
    """At least one of these phrases stands in the instructions: the tool's name and description, system and user text
    without the values of subject and topic labels.

    Case, punctuation and line breaks are ignored. `translat*`: any word that begins so (four letters or more);
    `check ... lesson`: up to five words between, in one sentence; `create ~ lesson`: the same, but no preposition or
    pointing word among them (so not "create a quiz for the lesson"); `{n}`: two or more, as number or word.
    """
    prompt_none: tuple[str, ...] = ()
    """None of these phrases does."""
    label_any: tuple[str, ...] = ()
    """At least one of these stands as a label (`Name:`) at the head of a line of a user message."""
    passage_any: tuple[str, ...] = ()
    """The same, with a text of eight words or more behind it, up to the next label."""
    json_any: tuple[str, ...] = ()
    """At least one of these is a key, with real text as its value, of a JSON object inside a user message."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to recognise a lesson call; the first rule whose `when` holds decides. None: as set for all."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    name: Annotated[str, Within(min_length=1)]
    when: When = When()
    merge_calls: bool = True
    """False: calls that this rule matches always go alone (a rule that stands before another to except from it)."""
    guard: bool = False
    """With `merge_calls: false`: holds for calls that an earlier rule matched too, unless that rule names it in `despite`."""
    despite: tuple[str, ...] = ()
    """Names of guards that do not hold for the calls of this rule; `*`: none does."""
    reason: str | None = None
    """With `merge_calls: false`: what the caller is told (`x-lesson-reason`); None: `rule`."""
    mode: Mode | None = None
    share: Annotated[float, Within(ge=0, le=1)] = 1.0
    """0.0 to 1.0: the part of the batch keys for which this rule merges (a trial)."""
    window: WindowPolicy | None = None
    merge: MergePolicy | None = None
    checks: Checks | None = None
    model: str | None = None
    """The model alias that this rule's calls are routed to, in place of the caller's."""


@dataclass(frozen=True, slots=True)
class IdentityPolicy:
    """How the proxy learns which learner a call is for."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    user: tuple[Source | tuple[Source, ...], ...] = (
        "header.x-user-id",
        "body.user",
        "body.safety_identifier",
        "metadata.user_id",
    )
    """Sources in order; a list in the list: all its parts together name the user."""
    ignore: tuple[str, ...] = ("anonymous", "guest", "default", "user", "null", "0")
    when_missing: Literal["identical_only", "never", "api_key"] = "identical_only"
    identical_across_users: bool = False


@dataclass(frozen=True, slots=True)
class LessonPolicy:
    """Everything that decides what is a lesson call and how it is merged."""

    mode: Mode = "on"
    window: WindowPolicy = WindowPolicy()
    merge: MergePolicy = MergePolicy()
    checks: Checks = field(default_factory=dict[str, FieldCheck])
    rules: tuple[Rule, ...] = ()
    subject: tuple[Source, ...] = ("header.x-lesson-subject", "metadata.subject", "label.Subject", "json.subject")
    topic: tuple[Source, ...] = ("header.x-lesson-topic", "metadata.topic", "label.Topic", "json.topic", "json.focus")
    identity: IdentityPolicy = IdentityPolicy()
