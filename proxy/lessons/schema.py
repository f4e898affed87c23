"""A caller's JSON Schema as a tree: walking it, and moving it below a larger schema so that its references still hold.

It knows no provider and never validates. Only what stands where a schema may stand counts as one: `$ref` inside an
`enum`, a `default` or a keyword that nobody defined is data and stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from proxy.lessons.unfit import UnfitError, copied
from proxy.model import Json

MAX_SCHEMA_DEPTH = 64
"""Levels of schemas within schemas."""

_ONE = frozenset(
    {
        "additionalItems",
        "additionalProperties",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
_LISTS = frozenset({"allOf", "anyOf", "items", "oneOf", "prefixItems"})
_MAPS = frozenset({"$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"})
_ROOTS = ("$defs", "definitions")
# they resolve against the document that they stand in, which is another one after the move
_UNMOVABLE = frozenset({"$dynamicRef", "$recursiveRef"})

Visit = Callable[[Json], Json]


@dataclass(frozen=True, slots=True)
class Nested:
    """A schema that was moved: the item itself, and its definitions for the `$defs` of the new root."""

    item: Any = field(repr=False)
    definitions: Json = field(repr=False)


def as_object(value: Any) -> Json | None:
    """Return the value where it is a JSON object."""
    return cast("Json", value) if isinstance(value, dict) else None


def as_list(value: Any) -> list[Any] | None:
    """Return the value where it is a JSON array."""
    return cast("list[Any]", value) if isinstance(value, list) else None


def children(node: Json) -> Iterator[Any]:
    """Yield the schemas that stand directly in a schema; booleans are schemas too."""
    for name, value in node.items():
        if name in _MAPS and isinstance(value, dict):
            yield from cast("Json", value).values()
        elif name in _LISTS and isinstance(value, list):
            yield from cast("list[Any]", value)
        elif name in _ONE:
            yield value


def nodes(schema: Any) -> Iterator[Json]:
    """Yield every object schema of a tree, itself first."""
    open_schemas = [schema]
    while open_schemas:
        node = as_object(open_schemas.pop())
        if node is not None:
            yield node
            open_schemas.extend(children(node))


def rebuild(schema: Any, visit: Visit, *, leave: frozenset[str] = frozenset(), depth: int = MAX_SCHEMA_DEPTH) -> Any:
    """Return a copy in which `visit` has replaced each object schema, the inner ones first; below `leave` nothing changes.

    UnfitError("schema_depth") where schemas nest too deep.
    """
    node = as_object(schema)
    if node is None:
        return copied(schema, "schema_depth")
    if depth == 0:
        raise UnfitError("schema_depth")

    def inner(part: Any) -> Any:
        return rebuild(part, visit, leave=leave, depth=depth - 1)

    def rebuilt(name: str, value: Any) -> Any:
        if name in leave:
            return copied(value, "schema_depth")
        if name in _MAPS and isinstance(value, dict):
            return {key: inner(part) for key, part in cast("Json", value).items()}
        if name in _LISTS and isinstance(value, list):
            return [inner(part) for part in cast("list[Any]", value)]
        return inner(value) if name in _ONE else copied(value, "schema_depth")

    return visit({name: rebuilt(name, value) for name, value in node.items()})


def references(schema: Any) -> set[str]:
    """Return the values of all `$ref` of a tree."""
    return {node["$ref"] for node in nodes(schema) if isinstance(node.get("$ref"), str)}


def resolved(root: Json, reference: str) -> Any:
    """Return the schema that `#…` points to; UnfitError("schema_ref") where it leaves the schema or points to no schema."""
    raw = reference[1:].split("/")
    if not reference.startswith("#") or raw[0] or "%2f" in reference.lower():
        raise UnfitError("schema_ref")
    here: Any = root
    steps = iter([_unescaped(token) for token in raw[1:]])
    for name in steps:
        node = as_object(here)
        if node is None or name not in node:
            raise UnfitError("schema_ref")
        here = _entered(name, node[name], steps)
    if not isinstance(here, dict | bool):
        raise UnfitError("schema_ref")
    return cast("Any", here)


def _entered(name: str, value: Any, steps: Iterator[str]) -> Any:
    """Step over one keyword of a schema, with the property name or position that belongs to it."""
    if name in _MAPS and isinstance(value, dict):
        below = cast("Json", value)
        step = next(steps, None)
        if step in below:
            return below[step]
    elif name in _LISTS and isinstance(value, list):
        parts = cast("list[Any]", value)
        step = next(steps, "")
        if step.isascii() and step.isdigit() and len(step) < len(str(len(parts))) + 1 and int(step) < len(parts):
            return parts[int(step)]
    elif name in _ONE:
        return value
    raise UnfitError("schema_ref")


def _unescaped(token: str) -> str:
    if "%" in token:
        from urllib.parse import unquote  # noqa: PLC0415 - 3 % of the rooms' import, for what hardly a schema writes

        token = unquote(token)
    return token.replace("~1", "/").replace("~0", "~")


def item_name(schema: Json) -> str:
    """Return a name for the item in the new root's `$defs` that is none of the schema's own definitions."""
    taken = {name for root in _ROOTS for name in as_object(schema.get(root)) or {}}
    return next(name for name in ("item", *(f"item{number}" for number in range(2, len(taken) + 3))) if name not in taken)


def nest(schema: Json, pointer: str) -> Nested:
    """Move a schema to `pointer` (as `/$defs/item`) of a larger one; its own definitions go to that one's `$defs`.

    `$schema` and `$id` are dropped. UnfitError("schema_ref") where a reference can't be followed after the move,
    UnfitError("schema_depth") where schemas nest too deep.
    """
    names = _definition_names(schema)
    rooted = bool(references(schema))

    def visit(node: Json) -> Json:
        if _UNMOVABLE & node.keys() or (rooted and isinstance(node.get("$id"), str) and node["$id"] != schema.get("$id")):
            raise UnfitError("schema_ref")
        node.pop("$id", None)
        if isinstance(node.get("$ref"), str):
            node["$ref"] = _moved(schema, node["$ref"], names, pointer)
        return node

    item = rebuild(schema, visit)
    item.pop("$schema", None)
    own: dict[str, Json] = {root: item.pop(root) for root in _ROOTS if isinstance(item.get(root), dict)}
    definitions = {names[root, name]: part for root, parts in own.items() for name, part in parts.items()}
    return Nested(item, definitions)


def _definition_names(schema: Json) -> dict[tuple[str, str], str]:
    """Give every definition a name of its own, since `$defs` and `definitions` become one map."""
    taken = {name for root in _ROOTS for name in as_object(schema.get(root)) or {}}
    names = {("$defs", name): name for name in as_object(schema.get("$defs")) or {}}
    first = {name for _, name in names}
    for name in as_object(schema.get("definitions")) or {}:
        new = name
        while new in (taken if name in first else ()):
            new += "_"
        taken.add(new)
        names["definitions", name] = new
    return names


def _moved(schema: Json, reference: str, names: dict[tuple[str, str], str], pointer: str) -> str:
    """Return the reference as it must read after the move; its tokens stay escaped as the caller wrote them."""
    resolved(schema, reference)
    raw = reference.split("/")
    if len(raw) < 3 or raw[1] not in _ROOTS:  # noqa: PLR2004 - `#`, the map's name, the definition's name
        return f"#{pointer}{reference[1:]}"
    name = _unescaped(raw[2])
    renamed = raw[2] + names[raw[1], name][len(name) :]
    return "/".join(("#/$defs", renamed, *raw[3:]))
