"""The words that ask for a batch, few since every one is paid for; it knows no tool, no schema and no provider.

Every caller's text stands whole behind a line with its key, and no key occurs in any text: so no text can pass for
another's beginning, or for what is meant for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never, cast

from proxy.lessons.schema_fit import compact
from proxy.lessons.sharing import Shared
from proxy.lessons.unfit import copied
from proxy.model import Carrier, Json, Shape

_SAME = "One full-length, independent, clearly distinct lesson per key."
_EACH = (
    "Fill each key of `lessons` with one full, independent lesson, as long as it would be alone, for that key's own request; "
    "no request counts for another key:"
)
_TWINS = " (clearly distinct lessons)"
_CLOSING = "Write all the lessons now."

WORDS = f"{_SAME} {_EACH} {_TWINS} {_CLOSING}"
"""What stands beside callers' texts; keys must not occur in it either."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What the words must tell of the answer's form."""

    keys: tuple[str, ...]
    shape: Shape
    carrier: Carrier
    schema: Json | None = field(repr=False)
    """The callers' schema of a lesson; told in words only where the carrier has no place for it."""


def worded(shared: Shared, ask: Ask) -> list[Json]:
    """Return the batch's messages; the last one is a user's."""
    if not shared.own:
        return _with_closing(shared.before, " ".join(filter(None, (_form(ask), _SAME))))
    blocks = [shared.leading, _form(ask), _EACH, *_requests(shared.own, ask.keys)]
    if shared.trailing:
        blocks.append(f"For {', '.join(ask.keys)}:\n{shared.trailing}")
    messages = [*shared.before, {"role": "user", "content": "\n\n".join(filter(None, blocks))}, *shared.after]
    return messages if messages[-1].get("role") == "user" else [*messages, {"role": "user", "content": _CLOSING}]


def _requests(own: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Put each text behind its key; equal texts stand once, behind all of theirs."""
    keys_of: dict[str, list[str]] = {}
    for text, key in zip(own, keys, strict=True):
        keys_of.setdefault(text, []).append(key)
    return [f"{', '.join(named)}{_TWINS if len(named) > 1 else ''}:\n{text}" for text, named in keys_of.items()]


def _with_closing(messages: list[Json], words: str) -> list[Json]:
    """Add the words to the last message where it is a user's, since some models refuse two in a row; else as one more."""
    last = messages[-1]
    content = cast("Any", last.get("content"))
    if last.get("role") == "user" and isinstance(content, str):
        return [*messages[:-1], {**last, "content": f"{content}\n\n{words}"}]
    if last.get("role") == "user" and isinstance(content, list):
        parts = cast("list[Any]", content)
        return [*messages[:-1], {**last, "content": [*parts, {"type": "text", "text": words}]}]
    return [*messages, {"role": "user", "content": words}]


def _form(ask: Ask) -> str:
    """Tell the answer's form, as far as the carrier leaves it open."""
    match ask.carrier:
        case "tool":
            return _value(ask.shape)
        case "json_schema":
            lead = "Answer in JSON, without a tool call." if ask.shape == "tool" else "Answer in JSON."
            return f"{lead} {_value(ask.shape)}".rstrip()
        case "json_object":
            object_of = ",".join(f'"{key}":LESSON' for key in ask.keys)
            value = _value(ask.shape, "LESSON") or f"Each LESSON fits this JSON schema: {_told(ask.schema)}"
            return f'Answer with JSON only, in this form: {{"lessons":{{{object_of}}}}}\n{value}'
        case _:
            assert_never(ask.carrier)


def _told(schema: Json | None) -> str:
    """Return the callers' schema as JSON, less what only tells where it comes from."""
    kept = {name: part for name, part in (schema or {"type": "object"}).items() if name not in ("$schema", "$id")}
    return compact(copied(kept, "schema_depth"))


def _value(shape: Shape, name: str = "value") -> str:
    match shape:
        case "json_object":
            return f"Each {name} is the JSON object asked for."
        case "text":
            return f"Each {name} is a string: the whole text asked for."
        case "tool" | "json_schema":
            return ""
        case _:
            assert_never(shape)
