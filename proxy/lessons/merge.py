"""Several lessons as one request: what they share goes up once, what they differ in stands behind each one's key.

It knows no provider but as a Capability, and not how the answer is taken apart again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from proxy.lessons.carriers import CARRIER_FIELDS, Parcel, carried, choose
from proxy.lessons.entry_keys import entry_keys
from proxy.lessons.sharing import Shared, share
from proxy.lessons.unfit import UnfitError, copied
from proxy.lessons.validators import checkable
from proxy.lessons.wording import WORDS, Ask, worded
from proxy.model import Capability, Carrier, Json, Lesson
from proxy.policy import CarrierChoice

_LIMIT_FIELDS = frozenset({"max_completion_tokens", "max_tokens"})
_NOT_PASSED_ON = CARRIER_FIELDS | _LIMIT_FIELDS | {"messages", "metadata", "model", "stream", "stream_options"}

ENTRY_TOKENS = 12
"""What an entry costs beside its lesson: key, quotes, braces, commas, its part of the object around."""


@dataclass(frozen=True, slots=True)
class MergedBody:
    """One request for several lessons."""

    body: Json = field(repr=False)
    """A chat body without `model`, `stream` and `stream_options`: whoever sends it adds those. Shares nothing with callers' bodies."""
    carrier: Carrier
    keys: tuple[str, ...]
    """keys[i] names the entry of lessons[i]."""


@dataclass(frozen=True, slots=True)
class Unmergeable:
    """These lessons must go alone."""

    reason: str
    """`no_lessons`, `different_keys`, `no_carrier`, `messages`, `message_parts`, `empty_request`, `keys`, `schema_ref`,
    `schema_depth`, `schema_unchecked` or `body_depth`."""


def merge(
    lessons: Sequence[Lesson],
    capability: Capability,
    *,
    seed: str,
    carrier: CarrierChoice = "auto",
    learned_tokens: Sequence[int | None] = (),
) -> MergedBody | Unmergeable:
    """Make one request of lessons with equal batch keys, as a deployment with this capability bears it; never raises.

    The same arguments give the same request; `seed` alone decides the entries' keys. `learned_tokens[i]` is the
    room in tokens, margin included, that lessons[i] should get where it names no limit.
    """
    try:
        return _merged(lessons, capability, seed, carrier, learned_tokens)
    except UnfitError as unfit:
        return Unmergeable(unfit.reason)


def _merged(
    lessons: Sequence[Lesson], capability: Capability, seed: str, choice: CarrierChoice, learned_tokens: Sequence[int | None]
) -> MergedBody:
    if not lessons:
        raise UnfitError("no_lessons")
    first = lessons[0]
    if any(lesson.key != first.key for lesson in lessons):
        raise UnfitError("different_keys")
    if not capability.force_while_thinking and _thinks(first.body):
        capability = replace(capability, force="none")
    carrier = choose(first.shape, capability, choice)
    shared = share([lesson.body for lesson in lessons])
    kept = {
        name: copied(value, "body_depth")
        for name, value in first.body.items()
        # only what tells the learner may differ: where learners do, upstream is told of none; null asks for nothing, and
        # litellm fails some calls over it
        if name not in _NOT_PASSED_ON
        and value is not None
        and all(name in lesson.body and lesson.body[name] == value for lesson in lessons)
    }
    keys = entry_keys(len(lessons), _all_texts(lessons, shared), seed)
    body: Json = {"messages": worded(shared, Ask(keys, first.shape, carrier, first.schema))}
    body |= carried(Parcel(first, keys, capability, alike=not shared.own), carrier)
    body |= kept | _token_limit(lessons, capability, learned_tokens)
    if first.schema is not None and not checkable(first.schema):
        raise UnfitError("schema_unchecked")
    return MergedBody(body, carrier, keys)


def _thinks(body: Json) -> bool:
    """Tell whether a request asks for thinking, in Anthropic's way, OpenAI's, or OpenRouter's."""
    thinking: Any = body.get("thinking")
    kind = cast("Json", thinking).get("type") if isinstance(thinking, dict) else None
    reasoning: Any = body.get("reasoning")
    asked = isinstance(reasoning, dict) and cast("Json", reasoning).get("enabled") is not False
    return asked or kind not in (None, "disabled") or body.get("reasoning_effort") not in (None, "none")


def _all_texts(lessons: Sequence[Lesson], shared: Shared) -> str:
    """Join every string that a key must not occur in: all that will stand in the request."""
    texts: list[str] = [WORDS, shared.leading, *shared.own, shared.trailing]
    open_values: list[Any] = [lessons[0].body, lessons[0].schema]
    while open_values:
        value = open_values.pop()
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, dict):
            below = cast("Json", value)
            texts.extend(below)
            open_values.extend(below.values())
        elif isinstance(value, list):
            open_values.extend(cast("list[Any]", value))
    return "\n".join(texts)


def _token_limit(lessons: Sequence[Lesson], capability: Capability, learned_tokens: Sequence[int | None]) -> Json:
    """Sum the callers' limits, each of which is the provider's own where it names none.

    None where nobody names one, or where what a caller without one needs is not known.
    """
    default = capability.default_output_tokens
    named = next((lesson.token_limit_field for lesson in lessons if lesson.token_limit_field and lesson.token_limit is not None), None)
    if named is None and default is None:
        return {}
    learned = [*learned_tokens, *[None] * len(lessons)]
    needs = [lesson.token_limit or default or learned[index] for index, lesson in enumerate(lessons)]
    total = 0
    for need in needs:
        if need is None:
            return {}
        total += need + ENTRY_TOKENS
    most = capability.max_output_tokens
    return {capability.token_limit_field or named or "max_tokens": total if most is None else min(total, most)}
