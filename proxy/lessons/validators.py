"""Callers' own schemas, compiled for checking within bounds of size, depth and time; it knows nothing of what they describe.

A schema that can't be compiled within the bounds is not `checkable`: a lesson with one is not merged, and nothing conforms
to it, since no entry is handed over unchecked.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import orjson

from proxy.lessons.schema import as_list, as_object, children, resolved
from proxy.lessons.unfit import UnfitError
from proxy.model import Json

MAX_SCHEMA_BYTES = 65_536
MAX_DEPTH = 100
"""Levels of a schema, those behind its references included."""
MAX_WEIGHT = 50_000
"""Schemas and listed values once every reference is written out: what one check may have to visit for one value."""
MAX_PATTERNS = 64
MAX_PATTERN_BYTES = 262_144
"""Memory of one compiled pattern."""
MAX_BACKTRACKS = 1_000
"""For patterns that look around or back; all others are matched in linear time."""
CACHED = 128

_LOOKS_AROUND = re.compile(r"\(\?(?:[=!>]|<[=!])|\\\\(?:[1-9]|k<)")
"""In a schema's JSON text, where a backslash is written twice."""
_MOVING = frozenset({"$dynamicRef", "$recursiveRef", "$anchor", "$dynamicAnchor", "$recursiveAnchor"})
"""What lets a reference lead where only the validator knows."""


def checkable(schema: Json) -> bool:
    """Tell whether answers can be checked against `schema` offline and within the bounds."""
    return _validator(schema) is not None


def conforms(schema: Json, value: Any) -> bool:
    """Tell whether a parsed value is valid; False where the schema is not checkable."""
    is_valid = _validator(schema)
    return is_valid is not None and is_valid(value)


def _validator(schema: Json) -> Callable[[Any], bool] | None:
    try:
        text = orjson.dumps(schema)
    except orjson.JSONEncodeError:
        return None
    return _compiled(text) if len(text) <= MAX_SCHEMA_BYTES else None


@lru_cache(maxsize=CACHED)
def _compiled(text: bytes) -> Callable[[Any], bool] | None:
    schema = orjson.loads(text)
    weigher = _Weigher(schema)
    try:
        if weigher.weight(schema) > MAX_WEIGHT or weigher.patterns > MAX_PATTERNS:
            return None
    except UnfitError:
        return None
    return _validating(schema, looks_around=_LOOKS_AROUND.search(text.decode()) is not None)


def _validating(schema: Any, *, looks_around: bool) -> Callable[[Any], bool] | None:
    import jsonschema_rs  # noqa: PLC0415 - it brings half of `email` along: a tenth of the rooms' import, for merged calls alone

    limits = {"size_limit": MAX_PATTERN_BYTES, "dfa_size_limit": MAX_PATTERN_BYTES}
    options = (
        jsonschema_rs.FancyRegexOptions(backtrack_limit=MAX_BACKTRACKS, **limits) if looks_around else jsonschema_rs.RegexOptions(**limits)
    )
    try:
        return jsonschema_rs.validator_for(schema, offline=True, pattern_options=options).is_valid
    except ValueError:  # its ValidationError, and what it says of too deep a schema
        return None


class _Weigher:
    """Measures a schema as if its references were written out; a reference back to where it stands counts once."""

    def __init__(self, root: Json) -> None:
        self._root = root
        self._weights: dict[str, int] = {}
        self.patterns = 0

    def weight(self, schema: Any, depth: int = 0) -> int:
        """Return the number of schemas and of the values that they list; UnfitError where that can't be known."""
        node = as_object(schema)
        if node is None:
            return 1
        if depth > MAX_DEPTH or not node.keys().isdisjoint(_MOVING) or (depth and "$id" in node):
            raise UnfitError("schema_depth")
        self.patterns += isinstance(node.get("pattern"), str) + len(as_object(node.get("patternProperties")) or {})
        reference = node.get("$ref")
        behind = self._behind(reference, depth) if isinstance(reference, str) else 0
        return 1 + behind + len(as_list(node.get("enum")) or ()) + sum(self.weight(part, depth + 1) for part in children(node))

    def _behind(self, reference: str, depth: int) -> int:
        if reference not in self._weights:
            self._weights[reference] = 0  # met again on the way: the validator sees the same value only once
            self._weights[reference] = self.weight(resolved(self._root, reference), depth + 1)
        return self._weights[reference]
