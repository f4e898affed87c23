"""Recognises a schema that asks for several things in one answer, by its structure and its prompt, and frames such an answer.

Two forms are known: an object with one property a thing (`{"lessons": {"k1": …, "k2": …}}`), and an array of keyed items
(`{"lessons": [{"key": "k1", …}, …]}`, the key an enum). The prompt names every key, or the keys are plainly made up; whose
they are it doesn't know.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from proxy.simulated.schema import Json, is_list, is_object, properties, resolve, type_of
from proxy.simulated.topic import all_named

_MOST_KEYS = 100
_VOWEL = re.compile("[aeiouy]", re.IGNORECASE)

Pairs = list[tuple[str, Any]]
"""Key and value of each entry, in the order in which they are written; a key may come twice."""


@dataclass(frozen=True, slots=True)
class Entries:
    """Where the several things stand in an answer, and what each looks like."""

    form: Literal["object", "array"]
    keys: tuple[str, ...]
    schemas: tuple[Json, ...] = field(repr=False)
    """One a key, resolved; of the array form each without the key's own property."""
    member: str | None = None
    """The property of the answer that holds them; None: the answer itself does."""
    key_field: str = "key"
    value_field: str | None = None
    """Of the array form: the one property that holds the entry; None: the entry's members stand beside the key."""


def find_entries(schema: Json, root: Json, prompt: str) -> Entries | None:
    """Return how `schema` asks for several things that `prompt` names, or None: it asks for one."""
    named = properties(resolve(schema, root)[0])
    if len(named) == 1:
        member, inner = next(iter(named.items()))
        plain = resolve(inner, root)[0]
        return _object(plain, root, prompt, member) or _array(plain, root, prompt, member)
    return _object(resolve(schema, root)[0], root, prompt, None)


def _object(plain: Json, root: Json, prompt: str, member: str | None) -> Entries | None:
    named = properties(plain)
    schemas = tuple(resolve(value, root)[0] for value in named.values())
    if not 1 < len(named) <= _MOST_KEYS or any(other != schemas[0] for other in schemas[1:]):
        return None
    keys = tuple(named)
    # the fields of one thing may be alike and named too (`title` and `content`, both strings): keys are of one length
    things = type_of(schemas[0]) == "object" or (member is not None and _of_one_length(keys))
    if not things or not (all_named(prompt, keys) or (member is not None and _made_up(keys))):
        return None
    return Entries("object", keys, schemas, member)


def _of_one_length(keys: tuple[str, ...]) -> bool:
    return max(map(len, keys)) - min(map(len, keys)) <= 1


def _made_up(keys: tuple[str, ...]) -> bool:
    """Tell whether these are no words of a language: a prompt that asks for the same thing several times need not name them."""
    return _of_one_length(keys) and not any(_VOWEL.search(key) and key.isalpha() for key in keys)


def _array(plain: Json, root: Json, prompt: str, member: str) -> Entries | None:
    items = resolve(plain.get("items"), root)[0]
    named = properties(items)
    for key_field, value in named.items():
        keys = resolve(value, root)[0].get("enum")
        if is_list(keys) and 1 < len(keys) <= _MOST_KEYS and all(isinstance(key, str) for key in keys) and _keyed(key_field, keys, prompt):
            others = {name: schema for name, schema in named.items() if name != key_field}
            held = next(iter(others)) if len(others) == 1 else None
            entry = resolve(others[held], root)[0] if held else {**items, "properties": others, "required": _without(items, key_field)}
            return Entries("array", tuple(keys), (entry,) * len(keys), member, key_field, held)
    return None


def _keyed(name: str, keys: list[str], prompt: str) -> bool:
    return all_named(prompt, keys) or (name == "key" and _made_up(tuple(keys)))


def _without(items: Json, name: str) -> list[Any]:
    required = items.get("required")
    return [other for other in required if other != name] if is_list(required) else []


def framed(entries: Entries, pairs: Pairs, *, unkeyed: bool = False) -> str:
    """Return the JSON text of an answer that holds `pairs`; `unkeyed` leaves the keys of an array out."""
    if entries.form == "object":
        inner = "{" + ",".join(f"{_json(key)}:{_json(value)}" for key, value in pairs) + "}"
    else:
        inner = "[" + ",".join(_json(value if unkeyed else _item(entries, key, value)) for key, value in pairs) + "]"
    return inner if entries.member is None else f"{{{_json(entries.member)}:{inner}}}"


def _item(entries: Entries, key: str, value: Any) -> Json:
    if entries.value_field is None and is_object(value):
        return {entries.key_field: key, **value}
    return {entries.key_field: key, entries.value_field or "value": value}


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
