"""Writes an instance of any JSON schema that speaks about a topic, from a seed; knows nothing of requests or entries.

Followed: references, combinations, enum, const, bounds of strings, arrays, objects and numbers, formats, plain patterns,
recursion (it stops at what is required). Not followed: `not`, `if`, `dependentSchemas`, `unevaluated…`, references to other files.
Every size that a schema names is bounded here, so that no schema makes the provider write without end.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from proxy.simulated import scalars
from proxy.simulated.prose import Prose
from proxy.simulated.schema import Json, count, described, is_list, is_object, properties, resolve, type_of
from proxy.simulated.topic import Topic

_LEAN_DEPTH = 10
_DEEPEST = 24
_MOST_VALUES = 5_000
_END_DEPTH, _END_VALUES = 60, 20_000
_MOST_ITEMS = 500
_USUAL_ITEMS = 3
_TRIES_FOR_UNIQUE = 8


@dataclass(slots=True)
class Writer:
    """Writes one answer or entry: its topic, its generator and what it has written so far."""

    root: Json = field(repr=False)
    topic: Topic
    chance: random.Random
    content_words: int
    open_shapes: tuple[Json, ...] = field(default=(), repr=False)
    """What an object whose schema names no member looks like, the likeliest first."""
    prose: Prose = field(init=False)
    _values: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.prose = Prose(self.topic.subject, self.topic.words, self.chance)

    def write(self, schema: object, name: str, trail: tuple[str, ...] = ()) -> Any:
        """Return a value for a member called `name`; `trail` holds the steps and references that led here."""
        self._values += 1
        if self._values > _END_VALUES or len(trail) > _END_DEPTH:
            return None
        plain, followed = resolve(schema, self.root)
        plain = described(plain)
        trail = (*trail, *(followed or ("",)))
        if "const" in plain:
            return plain["const"]
        if is_list(choices := plain.get("enum")) and choices:
            return self._chosen(choices, name)
        for combination in ("anyOf", "oneOf"):
            if is_list(branches := plain.get(combination)) and branches:
                rest = {keyword: value for keyword, value in plain.items() if keyword != combination}
                return self.write({"allOf": [rest, self._branch(branches, trail)]}, name, trail)
        return self._typed(type_of(plain), plain, name, trail)

    def _typed(self, kind: str | None, schema: Json, name: str, trail: tuple[str, ...]) -> Any:
        if kind in {"object", "array"}:
            if len(trail) > _DEEPEST:
                return {} if kind == "object" else []
            return self._object(schema, name, trail) if kind == "object" else self._array(schema, name, trail)
        match kind:
            case "number" | "integer":
                return scalars.numeric(schema, self.topic.labels.get(name.lower()), self.chance, whole=kind == "integer")
            case "boolean":
                return self.chance.random() < 0.5  # noqa: PLR2004 - heads or tails
            case "null":
                return None
            case _:
                return scalars.string(schema, name, self)

    def _chosen(self, choices: list[Any], name: str) -> Any:
        """Prefer what the topic's label of this name says, then what its text says first, then any."""
        label = self.topic.labels.get(name.lower(), "")
        for said in (Topic(label).place, self.topic.place):
            placed = sorted((at, i) for i, choice in enumerate(choices) if (at := said(str(choice))) >= 0)
            if placed:
                return choices[placed[0][1]]
        return self.chance.choice(choices)

    def _lean(self, trail: tuple[str, ...]) -> bool:
        """Tell whether only what is required should be written any more: it recurs, is deep or much already."""
        references = [step for step in trail if step]
        return len(set(references)) < len(references) or len(trail) > _LEAN_DEPTH or self._values > _MOST_VALUES

    def _branch(self, branches: list[Any], trail: tuple[str, ...]) -> Any:
        """Take the first branch that is not null; where it gets deep, the plainest one."""
        plain = [(resolve(branch, self.root)[0], branch) for branch in branches]
        if not self._lean(trail):
            return next((branch for read, branch in plain if type_of(read) != "null"), branches[0])
        ranks = {"null": 0, "object": 3, "array": 2}
        return min(plain, key=lambda pair: ranks.get(type_of(pair[0]) or "object", 1))[1]

    def _object(self, schema: Json, name: str, trail: tuple[str, ...]) -> Json:
        named = properties(schema)
        if not named and self.open_shapes and not is_object(schema.get("additionalProperties")) and "patternProperties" not in schema:
            return self._open(name, trail)
        required = schema.get("required")
        if self._lean(trail):
            named = {key: value for key, value in named.items() if is_list(required) and key in required}
        written = {key: self.write(value, key, trail) for key, value in named.items() if value is not False}
        return written | self._further(schema, len(written), trail)

    def _open(self, name: str, trail: tuple[str, ...]) -> Json:
        """Write an object of no declared members in the shape that the prompt shows."""
        shapes, self.open_shapes = self.open_shapes, self.open_shapes[1:]
        root, self.root = self.root, shapes[0]
        try:
            written = self.write(shapes[0], name, trail)
        finally:
            self.root, self.open_shapes = root, shapes
        return written if is_object(written) else {name: written}

    def _further(self, schema: Json, present: int, trail: tuple[str, ...]) -> Json:
        """Write members without names of their own: as many as are needed, or two of a map that has only such."""
        more, patterns = schema.get("additionalProperties"), schema.get("patternProperties")
        pattern, value = next(iter(patterns.items())) if is_object(patterns) and patterns else (None, more)
        a_map = not present and (is_object(more) or pattern is not None) and not self._lean(trail)
        wanted = max(count(schema, "minProperties", 0), 2 if a_map else 0) - present
        rule = schema.get("propertyNames") if pattern is None else {"pattern": pattern}
        written: Json = {}
        for i in range(min(wanted, _MOST_ITEMS, count(schema, "maxProperties", _MOST_ITEMS))):
            key = (
                f"member_{i + 1}"
                if not is_object(rule)
                else str(self._unlike(list(written), lambda rule=rule: self.write(rule, "name", trail)))
            )
            written[key] = self.write(value, key, trail)
        return written

    def _array(self, schema: Json, name: str, trail: tuple[str, ...]) -> list[Any]:
        listed = schema.get("prefixItems", schema.get("items"))
        prefix: list[Any] = listed if is_list(listed) else []
        items = schema.get("items", {}) if not is_list(schema.get("items")) else schema.get("additionalItems", {})
        written = [self.write(part, name, trail) for part in prefix]
        wanted = 0 if items is False else self._length(schema, trail)
        contained = schema.get("contains")
        for i in range(len(written), wanted):
            part = {"allOf": [items, contained]} if contained is not None and i < count(schema, "minContains", 1) + len(prefix) else items
            write: Callable[[], Any] = lambda part=part: self.write(part, name, trail)  # noqa: E731 - one expression, used twice
            written.append(self._unlike(written, write) if schema.get("uniqueItems") is True else write())
        return written

    def _length(self, schema: Json, trail: tuple[str, ...]) -> int:
        least, most = count(schema, "minItems", 0), count(schema, "maxItems", _MOST_ITEMS)
        usual = least if self._lean(trail) else max(least, _USUAL_ITEMS)
        return min(usual, most, _MOST_ITEMS)

    def _unlike(self, others: list[Any], write: Callable[[], Any]) -> Any:
        """Write until the value differs from the others, a few times at most."""
        value = write()
        for _ in range(max(_TRIES_FOR_UNIQUE, 4 * len(others))):
            if value not in others:
                break
            value = write()
        return value
