"""How a batch travels in a request: which of a tool, a json_schema or a json_object carries it, and its JSON there.

It knows what a provider can do as a Capability, and nothing of messages.

A caller of shape `json_object` or `text` has no schema: its entry is an open object or a string. A forced tool carries
those best (the keys are then the provider's to keep); where every string needs a bound they go as json_object, since a
bound would cut a lesson in its middle.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, assert_never

from proxy.lessons.schema import Nested, as_list, as_object, item_name, nest
from proxy.lessons.schema_fit import fitted, meets_strict
from proxy.lessons.unfit import UnfitError
from proxy.model import Capability, Carrier, Json, Lesson, Shape
from proxy.policy import CarrierChoice

BATCH_NAME = "create_lesson_batch"

CARRIER_FIELDS = frozenset({"function_call", "functions", "parallel_tool_calls", "response_format", "tool_choice", "tools"})
"""Body fields that are the carrier's: the callers' own are replaced."""

_PREFERRED: dict[Shape, tuple[Carrier, ...]] = {
    "tool": ("tool", "json_schema", "json_object"),
    "json_schema": ("json_schema", "tool", "json_object"),
    "json_object": ("tool", "json_schema", "json_object"),
    "text": ("tool", "json_schema", "json_object"),
}


_ARTICLES = frozenset({"a", "an", "new", "one", "single", "the"})


@dataclass(frozen=True, slots=True)
class Parcel:
    """What the carrier must hold, and for whom."""

    lesson: Lesson = field(repr=False)
    """Any of the batch: their tools and schemas are equal."""
    keys: tuple[str, ...]
    capability: Capability
    alike: bool
    """All calls say the same, so any entry would suit any caller."""


@dataclass(frozen=True, slots=True)
class _Wrapper:
    """How much the object around the entries insists on."""

    closed: bool
    """It forbids what was not asked for."""
    insistent: bool
    """It requires `lessons` itself."""


def choose(shape: Shape, capability: Capability, choice: CarrierChoice) -> Carrier:
    """Return the carrier: the one that is set where the provider bears it, else the best that it bears.

    UnfitError("no_carrier") where it bears none.
    """
    preferred = _PREFERRED[shape]
    if capability.bounded_strings and shape in ("json_object", "text"):
        preferred = ("json_object", "tool", "json_schema")
    else:
        # of the two that hold a schema, the one whose lessons arrive as they are written
        preferred = (*sorted(preferred[:2], key=capability.comes_whole), preferred[2])
    if choice != "auto":
        preferred = (choice, *preferred)
    for carrier in preferred:
        if _bears(capability, carrier, shape):
            return carrier
    raise UnfitError("no_carrier")


def _bears(capability: Capability, carrier: Carrier, shape: Shape) -> bool:
    match carrier:
        case "tool":
            return capability.force != "none" and (capability.open_objects or shape != "json_object")
        case "json_schema":
            # strict schemas forbid an open object
            return capability.json_schema and (shape != "json_object" or (capability.open_objects and not capability.strict))
        case "json_object":
            return capability.json_object
        case _:
            assert_never(carrier)


def carried(parcel: Parcel, carrier: Carrier) -> Json:
    """Return the body fields that make the provider answer with the batch; UnfitError: "schema_ref", "schema_depth"."""
    match carrier:
        case "tool":
            return _as_tool(parcel)
        case "json_schema":
            return {"response_format": {"type": "json_schema", "json_schema": _named(parcel, "schema")}}
        case "json_object":
            return {"response_format": {"type": "json_object"}}
        case _:
            assert_never(carrier)


def _as_tool(parcel: Parcel) -> Json:
    forced = {"type": "function", "function": {"name": BATCH_NAME}} if parcel.capability.force == "name" else "required"
    fields: Json = {"tools": [{"type": "function", "function": _named(parcel, "parameters")}], "tool_choice": forced}
    if parcel.capability.parallel_tool_calls:
        fields["parallel_tool_calls"] = False
    return fields


def _named(parcel: Parcel, place: Literal["parameters", "schema"]) -> Json:
    """Return the batch's tool function or json_schema; `strict` where the caller asked for it and the whole meets it."""
    lesson, capability = parcel.lesson, parcel.capability
    declared = _declared(lesson)
    named: Json = {"name": BATCH_NAME}
    if not lesson.schema:
        entry: Json = {"type": "string" if lesson.shape == "text" else "object"}
        return named | {place: _keyed({key: dict(entry) for key in parcel.keys}, {}, _wrapper(parcel, place, strict=False))}
    strict = declared.get("strict") is True
    item = fitted(lesson.schema, lesson.schema_name, capability, strict=strict)
    if strict and not meets_strict(item, capability, len(parcel.keys)):
        strict, item = False, fitted(lesson.schema, lesson.schema_name, capability, strict=False)
    description = _description(declared)
    if description and "description" not in item and "$ref" not in item:
        item["description"] = description
    elif description:
        named["description"] = description
    if strict:
        named["strict"] = True
    return named | {place: _batch_schema(parcel, item, _wrapper(parcel, place, strict=strict))}


def _wrapper(parcel: Parcel, place: Literal["parameters", "schema"], *, strict: bool) -> _Wrapper:
    """Insist on as little as is safe where all calls are alike: every word counts most there, and any entry suits any caller.

    Where a grammar may enforce the schema it insists on everything; where the provider fails the whole call over an
    entry that nobody asked for, such an entry is allowed: it is dropped here.
    """
    lean = parcel.alike and place == "parameters" and not (strict or parcel.capability.bounded_strings)
    return _Wrapper(closed=not lean and not parcel.capability.loose_items, insistent=not lean)


def _batch_schema(parcel: Parcel, item: Json, wrapper: _Wrapper) -> Json:
    """Return the schema of the whole answer in the form that the provider reads best."""
    match parcel.capability.entries:
        case "reference":
            name = item_name(item)
            nested = nest(item, f"/$defs/{name}")
            entries: Json = {key: {"$ref": f"#/$defs/{name}"} for key in parcel.keys}
            return _keyed(entries, {name: nested.item, **nested.definitions}, wrapper)
        case "inline":
            # a reference of the caller's to its own root means another place in each
            places = {key: nest(item, f"/properties/lessons/properties/{key}") for key in parcel.keys}
            return _keyed({key: place.item for key, place in places.items()}, places[parcel.keys[0]].definitions, wrapper)
        case "array":
            return _listed(parcel.keys, nest(item, "/properties/lessons/items/properties/lesson"), wrapper)
        case _:
            assert_never(parcel.capability.entries)


def _keyed(entries: Json, definitions: Json, wrapper: _Wrapper) -> Json:
    return _outer(_object(entries, wrapper.closed), definitions, wrapper)


def _listed(keys: Sequence[str], nested: Nested, wrapper: _Wrapper) -> Json:
    entry = _object({"key": {"type": "string", "enum": list(keys)}, "lesson": nested.item}, wrapper.closed)
    lessons: Json = {"type": "array", "items": entry}
    if wrapper.closed:
        lessons |= {"minItems": len(keys), "maxItems": len(keys)}
    return _outer(lessons, nested.definitions, wrapper)


def _outer(lessons: Json, definitions: Json, wrapper: _Wrapper) -> Json:
    outer = _object({"lessons": lessons}, wrapper.closed)
    if not wrapper.insistent:
        del outer["required"]
    return {"$defs": definitions, **outer} if definitions else outer


def _object(properties: Json, closed: bool) -> Json:  # noqa: FBT001
    schema: Json = {"type": "object", "properties": properties, "required": list(properties)}
    return schema | {"additionalProperties": False} if closed else schema


def _declared(lesson: Lesson) -> Json:
    """Return the caller's own tool function or json_schema as its body has it; empty where there is none."""
    if lesson.shape == "tool":
        tools = as_list(lesson.body.get("tools")) or [None]
        return as_object((as_object(tools[0]) or {}).get("function")) or {}
    response_format = as_object(lesson.body.get("response_format")) or {}
    return as_object(response_format.get("json_schema")) or {}


def _description(declared: Json) -> str:
    """Return the caller's description, unless it only repeats the name (as "Create one lesson" does)."""
    description, name = declared.get("description"), declared.get("name")
    if not isinstance(description, str):
        return ""
    named = set(re.findall("[a-z]+", re.sub("([A-Z])", r" \1", name if isinstance(name, str) else "").lower()))
    words = set(re.findall(r"\w+", description.lower()))
    return "" if words <= named | _ARTICLES else description
