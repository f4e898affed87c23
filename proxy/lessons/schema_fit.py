"""What a provider bears in a lesson's schema: constraints taken out, bounds put in, redundant words dropped; it never validates.

What is taken out stays as words in the description, so that the model still hears it; the caller's own schema is what
an answered lesson is checked against. What is put in only narrows: a lesson that fits the result fits the caller's schema.
"""

from __future__ import annotations

import json
from typing import Any, cast

from proxy.lessons.schema import as_list, as_object, children, nodes, rebuild, references, resolved
from proxy.model import Capability, Json

BOUNDED_STRING_CHARS = 1999
"""maxLength where the caller sets none: grammar engines refuse exactly 2,000 repetitions, and drop larger bounds."""

_MANY_REFERENCES = 50
_LEVELS_AROUND = 2
"""The batch's own object and `lessons` in it."""
_ZOD_BOUND = 2**53 - 1

_UNSTRICT = frozenset(
    {
        "contains",
        "contentSchema",
        "dependencies",
        "dependentRequired",
        "dependentSchemas",
        "else",
        "if",
        "maxContains",
        "maxLength",
        "maxProperties",
        "minContains",
        "minLength",
        "minProperties",
        "not",
        "patternProperties",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
        "uniqueItems",
    }
)
_CONSTRAINTS = _UNSTRICT | {
    "const",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "maxItems",
    "maximum",
    "minItems",
    "minimum",
    "multipleOf",
    "pattern",
}
# these hold schemas, or need their siblings to mean anything: no words for them
_UNSPOKEN = _UNSTRICT - {"maxLength", "maxProperties", "minLength", "minProperties", "uniqueItems"}

# beside these, requiring every property could leave nothing that fits
_CHOOSY = frozenset({"allOf", "dependencies", "dependentRequired", "dependentSchemas", "if", "maxProperties", "not", "oneOf"})
# narrowing what stands below these would widen the whole
_INVERTED = frozenset({"contains", "if", "not", "propertyNames"})


def fitted(schema: Json, name: str | None, capability: Capability, *, strict: bool) -> Json:
    """Return a copy of a lesson's schema as the provider bears it; `name` is the tool's or schema's name.

    UnfitError("schema_depth") where schemas nest too deep.
    """
    result = trimmed(schema, name)
    if capability.loose_items:
        result = loosened(result, _CONSTRAINTS)
    elif strict and capability.strict:
        result = loosened(result, _UNSTRICT)
    if not capability.open_objects:
        result = typed(result)
    return bounded(result) if capability.bounded_strings else result


def trimmed(schema: Json, name: str | None) -> Json:
    """Return a copy without what generators write and nobody reads: titles that repeat a name, bounds of ±2^53."""

    def visit(node: Json) -> Json:
        for keyword in ("properties", "$defs", "definitions"):
            for key, part in (as_object(node.get(keyword)) or {}).items():
                _drop_title(part, key)
        if node.get("minimum") == -_ZOD_BOUND:
            del node["minimum"]
        if node.get("maximum") == _ZOD_BOUND:
            del node["maximum"]
        return node

    result = rebuild(schema, visit)
    _drop_title(result, name or "")
    return result


def _drop_title(schema: Any, name: str) -> None:
    node = as_object(schema)
    title = node.get("title") if node else None
    if node and isinstance(title, str) and _letters(title) == _letters(name):
        del node["title"]


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text)).casefold()


def loosened(schema: Json, dropped: frozenset[str]) -> Json:
    """Return a copy without the `dropped` keywords and with every `oneOf` an `anyOf`; descriptions tell what was dropped.

    With all constraints dropped, objects are open too: the provider must find nothing to object to.
    """

    def visit(node: Json) -> Json:
        gone = {keyword: node.pop(keyword) for keyword in tuple(node) if keyword in dropped}
        told = {keyword: value for keyword, value in gone.items() if keyword not in _UNSPOKEN}
        if told:
            own = node.get("description")
            words = f"Must fit {compact(told)}"
            node["description"] = f"{own} {words}" if isinstance(own, str) and own else words
        if "oneOf" in node:
            branches = node.pop("oneOf")
            node.setdefault("anyOf", branches)
        if "enum" in dropped and node.get("additionalProperties") is False:
            del node["additionalProperties"]
        return node

    return rebuild(schema, visit)


def typed(schema: Json) -> Json:
    """Return a copy in which lists of strings say so: what has no type would be taken for an object."""

    def visit(node: Json) -> Json:
        values = as_list(node.get("enum")) or ([node["const"]] if "const" in node else [])
        if values and "type" not in node and all(isinstance(value, str) for value in values):
            node["type"] = "string"
        return node

    return rebuild(schema, visit)


def bounded(schema: Json) -> Json:
    """Return a copy in which every string has a maxLength and every listed property is required, where that can be met."""
    cyclic = _is_cyclic(schema)

    def visit(node: Json) -> Json:
        _bound_string(node)
        properties = as_object(node.get("properties"))
        if properties and not _CHOOSY & node.keys():
            required = as_list(node.get("required")) or []
            node["required"] = [
                *required,
                *(name for name, part in properties.items() if name not in required and _can_require(part, cyclic=cyclic)),
            ]
        return node

    return rebuild(schema, visit, leave=_INVERTED)


def _bound_string(node: Json) -> None:
    kind = node.get("type")
    if "string" not in (as_list(kind) or [kind]) or "enum" in node or "const" in node:
        return
    own, least = node.get("maxLength"), node.get("minLength")
    if not isinstance(own, int):
        own = max(BOUNDED_STRING_CHARS, least if isinstance(least, int) else 0)
    node["maxLength"] = BOUNDED_STRING_CHARS if own == BOUNDED_STRING_CHARS + 1 and least != own else own


def _can_require(schema: Any, *, cyclic: bool) -> bool:
    """Tell whether some finite value fits: a property that is forbidden, or contains its own kind, must stay optional."""
    return schema is not False and not (cyclic and references(schema))


def _is_cyclic(schema: Json) -> bool:
    """Tell whether some reference leads back to itself; so many that following them is dear count as cyclic."""
    found = references(schema)
    if len(found) > _MANY_REFERENCES:
        return True
    leads_to = {reference: references(resolved(schema, reference)) for reference in found}
    while ends := {reference for reference, onward in leads_to.items() if not onward & leads_to.keys()}:
        for reference in ends:
            del leads_to[reference]
    return bool(leads_to)


def meets_strict(item: Json, capability: Capability, lessons: int) -> bool:
    """Tell whether a batch of so many of these items is what a provider's strict mode takes.

    Every object is closed and requires all its properties, and neither levels nor properties are too many.
    """
    if not _is_object(item) or not all(_is_closed(node) for node in nodes(item) if _is_object(node)):
        return False
    most_levels, most_properties = capability.strict_levels, capability.strict_properties
    if most_levels is not None and _LEVELS_AROUND + _levels(item, item, {}) > most_levels:
        return False
    copies = lessons if capability.entries == "inline" else 1
    properties = sum(len(as_object(node.get("properties")) or ()) for node in nodes(item))
    return most_properties is None or copies * properties + lessons + 1 <= most_properties


def _levels(schema: Any, root: Json, behind: dict[str, int]) -> int:
    """Count the objects and arrays within each other; what a reference comes back to is not counted again.

    `behind` remembers what stands behind each reference: written out, a small schema can be endless.
    """
    node = as_object(schema)
    if node is None:
        return 0
    below = list(children({name: part for name, part in node.items() if name not in ("$defs", "definitions")}))
    deepest = max((_levels(part, root, behind) for part in below), default=0)
    reference = node.get("$ref")
    if isinstance(reference, str):
        if reference not in behind:
            behind[reference] = 0
            behind[reference] = _levels(resolved(root, reference), root, behind)
        deepest = max(deepest, behind[reference])
    return deepest + (_is_object(node) or "items" in node)


def _is_object(node: Json) -> bool:
    kind = node.get("type")
    return "object" in (as_list(kind) or [kind]) or "properties" in node


def _is_closed(node: Json) -> bool:
    properties, required = as_object(node.get("properties")) or {}, as_list(node.get("required")) or []
    return node.get("additionalProperties") is False and all(name in required for name in properties)


def compact(value: Any) -> str:
    """Return JSON without spaces; total for any parsed JSON value."""
    return json.dumps(cast("object", value), separators=(",", ":"), ensure_ascii=False)
