"""Reads JSON schemas: references, combinations and types, as far as writing an instance needs; it writes nothing itself."""

from __future__ import annotations

import re
from typing import Any, TypeGuard
from urllib.parse import unquote

import orjson

Json = dict[str, Any]

_MOST_REFERENCES = 32
_BY_KEYWORD = {
    "properties": "object", "required": "object", "additionalProperties": "object", "patternProperties": "object",
    "items": "array", "prefixItems": "array", "minItems": "array", "uniqueItems": "array",
    "pattern": "string", "minLength": "string", "maxLength": "string", "format": "string",
    "minimum": "number", "maximum": "number", "multipleOf": "number", "exclusiveMinimum": "number", "exclusiveMaximum": "number",
}  # fmt: skip
_TOLD = _BY_KEYWORD.keys() | {"const", "enum", "maxItems", "maxProperties", "minProperties"}
_NOTED = {
    "minimum number of items": "minItems", "maximum number of items": "maxItems", "minimum length": "minLength",
    "maximum length": "maxLength", "minimum value": "minimum", "maximum value": "maximum",
}  # fmt: skip
_NOTE = re.compile(rf"({'|'.join(_NOTED)}): (\d+)")
_LOWEST = frozenset(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"))
_HIGHEST = frozenset(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"))


def is_object(value: object) -> TypeGuard[Json]:
    """Tell whether `value` is a JSON object."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Tell whether `value` is a JSON array."""
    return isinstance(value, list)


def resolve(schema: object, root: Json) -> tuple[Json, tuple[str, ...]]:
    """Follow `$ref` and fold `allOf` in; returns a schema without either, and the references that were followed.

    A boolean or broken schema reads as `{}`: anything. What `allOf` and the reference's neighbours say holds together.
    """
    followed: list[str] = []
    return _resolve(schema, root, followed), tuple(followed)


def _resolve(schema: object, root: Json, followed: list[str]) -> Json:
    if not is_object(schema):
        return {}
    if "$ref" not in schema and "allOf" not in schema:
        return schema
    merged: Json = {name: value for name, value in schema.items() if name not in {"$ref", "allOf"}}
    reference = schema.get("$ref")
    if isinstance(reference, str) and len(followed) < _MOST_REFERENCES:
        followed.append(reference)
        merged = both(_resolve(_pointed(root, reference), root, followed), merged)
    parts = schema.get("allOf")
    for part in parts if is_list(parts) else []:
        if len(followed) < _MOST_REFERENCES:
            merged = both(merged, _resolve(part, root, followed))
    return merged


def _pointed(root: Json, reference: str) -> object:
    """Return what a `#/…` pointer stands for; anything else, and a dangling one, stands for nothing."""
    if not reference.startswith("#"):
        return None
    at: object = root
    for step in reference[1:].split("/")[1:]:
        name = unquote(step).replace("~1", "/").replace("~0", "~")
        if is_object(at):
            at = at.get(name)
        elif is_list(at) and name.isdigit() and int(name) < len(at):
            at = at[int(name)]
        else:
            return None
    return at


def both(one: Json, other: Json) -> Json:
    """Return a schema that asks for what both ask for, as far as a writer looks."""
    merged = one | other
    for name in one.keys() & other.keys():
        merged[name] = _both(name, one[name], other[name])
    return merged


def _both(keyword: str, one: Any, other: Any) -> Any:
    if keyword in _LOWEST | _HIGHEST and _numbers(one, other):
        return min(one, other) if keyword in _LOWEST else max(one, other)
    if keyword == "properties" and is_object(one) and is_object(other):
        return one | {name: {"allOf": [one[name], value]} if name in one else value for name, value in other.items()}
    if keyword == "required" and is_list(one) and is_list(other):
        return [*one, *(name for name in other if name not in one)]
    if keyword in {"enum", "type"} and is_list(one) and is_list(other):
        return [value for value in one if value in other]
    return other


def described(schema: Json) -> Json:
    """Return the schema with the keywords that its description tells, as JSON or as a note: a model reads them there too."""
    words = schema.get("description")
    if not isinstance(words, str):
        return schema
    noted = {_NOTED[name]: int(number) for name, number in _NOTE.findall(words)}
    if noted or "{" not in words:
        return both(noted, schema) if noted else schema
    try:
        told = orjson.loads(words[words.index("{") : words.rindex("}") + 1])
    except ValueError:
        return schema
    return both(told, schema) if is_object(told) and told.keys() <= _TOLD else schema


def _numbers(*values: object) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def type_of(schema: Json) -> str | None:
    """Return the type to write: the first that is not null, or the one that the keywords speak of; None: anything."""
    declared = schema.get("type")
    if is_list(declared):
        return next((str(name) for name in declared if name != "null"), "null")
    if isinstance(declared, str):
        return declared
    return next((kind for keyword, kind in _BY_KEYWORD.items() if keyword in schema), None)


def number(schema: Json, keyword: str, default: float) -> float:
    """Return a numeric keyword's value, or the default where it is absent or no number."""
    value = schema.get(keyword)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else default


def count(schema: Json, keyword: str, default: int) -> int:
    """Return a counting keyword's value, 0 or more."""
    return max(0, int(number(schema, keyword, default)))


def properties(schema: Json) -> Json:
    """Return the schemas of an object's named properties, those included that are only required."""
    named = schema.get("properties")
    required = schema.get("required")
    more = schema.get("additionalProperties", {})
    extra = {name: more for name in required if isinstance(name, str)} if is_list(required) else {}
    named = named if is_object(named) else {}
    return named | {name: schema for name, schema in extra.items() if name not in named}
