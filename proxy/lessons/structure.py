"""What the top level of a caller's schema looks like, and whether the schema stays within itself; it validates nothing.

Total and bounded: a schema of any shape gives an answer after at most `MAX_NODES` values.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import orjson

from proxy.model import Json

MAX_NODES = 5_000
MAX_DEPTH = 48
_MAX_HOPS = 4
_REFERS = b'"$'
_MAX_FIELDS = 200
_MAX_FIELD_CHARS = 100
# these move or name the place that a reference means: nested in a batch's schema they would mean another
_MOVING = frozenset({"$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "$vocabulary"})


@lru_cache(maxsize=2048)
def fold(name: str) -> str:
    """Return a property name as rules compare it: `learningObjectives`, `learning_objectives` are one."""
    return name.replace("_", "").replace("-", "").replace(" ", "").casefold()


def leaves_the_schema(schema: Json) -> str | None:
    """Return why the schema can't be nested in another (`schema_ref`, `schema_size`), or None."""
    try:
        text = orjson.dumps(schema)
    except TypeError:
        return _walk(schema)
    # most schemas refer to nothing: what their text shows spares the walk
    plain = len(text) < MAX_NODES and _REFERS not in text.replace(b'"$schema":', b"") and b'"id":"' not in text
    return None if plain else _walk(schema)


def _walk(schema: Json) -> str | None:
    level: list[Any] = [schema]
    nodes = 0
    for _ in range(MAX_DEPTH):
        known = [cast("Json", value) for value in level if isinstance(value, dict)]
        if any(map(_moves, known)):
            return "schema_ref"
        values = [item for value in known for item in value.values()]
        values += [item for value in level if isinstance(value, list) for item in cast("list[Any]", value)]
        nodes += len(values)
        if nodes > MAX_NODES:
            return "schema_size"
        level = [item for item in values if isinstance(item, (dict, list))]
        if not level:
            return None
    return "schema_size"


def _moves(known: Json) -> bool:
    reference = known.get("$ref", "#")
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        return True
    # `id` was the keyword of draft 4; as the name of a property its value is a schema, never a string
    return not _MOVING.isdisjoint(known) or isinstance(known.get("id"), str)


def top_level_fields(schema: Json) -> frozenset[str]:
    """Return the folded names of the object that the schema describes; empty for a list, and for an object of one list."""
    found: Any = schema
    for _ in range(_MAX_HOPS):
        reference = cast("Json", found).get("$ref") if isinstance(found, dict) else None
        if not isinstance(reference, str):
            break
        found = _local(schema, reference)
    if not isinstance(found, dict) or cast("Json", found).get("type", "object") != "object":
        return frozenset()
    properties = cast("Json", found).get("properties")
    if not isinstance(properties, dict) or len(cast("Json", properties)) > _MAX_FIELDS:
        return frozenset()
    known = cast("Json", properties)
    if len(known) == 1 and _is_list(next(iter(known.values()))):
        return frozenset()
    return frozenset(fold(name) for name in known if len(name) <= _MAX_FIELD_CHARS)


def _is_list(value: Any) -> bool:
    return not isinstance(value, dict) or cast("Json", value).get("type") not in ("string", "object")


def _local(schema: Json, reference: str) -> Any:
    found: Any = schema
    for step in reference.removeprefix("#").split("/")[1:4]:
        found = cast("Json", found).get(step) if isinstance(found, dict) else None
    return found
