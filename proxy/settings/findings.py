"""Turns pydantic's findings into mistakes as an operator reads them: the path as in the file, the message without the value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from pydantic_core import ErrorDetails

from proxy.settings.document import Location, Mistake, dotted

_UNKNOWN: Final = frozenset({"extra_forbidden", "unexpected_keyword_argument"})
_ABSENT: Final = _UNKNOWN | {"missing"}
_MESSAGES: Final = {
    "missing": "is missing",
    "extra_forbidden": "unknown key",
    "unexpected_keyword_argument": "unknown key",
    "greater_than_equal": "must be ≥ {ge:g}",
    "less_than_equal": "must be ≤ {le:g}",
    "greater_than": "must be > {gt:g}",
    "less_than": "must be < {lt:g}",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_short": "must not be empty",
    "too_short": "must hold at least {min_length}",
    "string_type": "must be a string (in quotes, if it looks like a number)",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "dataclass_type": "must be a mapping",
}


def mistakes_of(errors: Sequence[ErrorDetails], document: Mapping[str, Any]) -> list[Mistake]:
    """Return one mistake a place; where a value could have been of several kinds, the kinds are joined by "or"."""
    messages: dict[str, list[str]] = {}
    for error in errors:
        loc = error["loc"]
        if error["type"] == "too_short" and any(other["loc"] != loc and other["loc"][: len(loc)] == loc for other in errors):
            # a list whose items are broken counts as empty: the items' own mistakes say more
            continue
        place = dotted(_place(error, document))
        message = _message(error)
        if message not in messages.setdefault(place, []):
            messages[place].append(message)
    return [Mistake(place, ", or ".join(found)) for place, found in messages.items()]


def _message(error: ErrorDetails) -> str:
    template = _MESSAGES.get(error["type"])
    if template is None:
        return error["msg"].removeprefix("Value error, ")
    return template.format(**error.get("ctx", {}))


def _place(error: ErrorDetails, document: Mapping[str, Any]) -> Location:
    """Follow the location through the document and leave out what pydantic adds of its own (the kinds of a union)."""
    place: list[str | int] = []
    node: Any = document
    for part in error["loc"]:
        match node, part:
            case dict(), str() if part in node:
                node = cast("dict[str, Any]", node)[part]
            case list(), int() if part < len(cast("list[Any]", node)):
                node = cast("list[Any]", node)[part]
            case _ if error["type"] in _ABSENT and part == error["loc"][-1]:
                pass
            case _:
                continue
        place.append(part)
    return tuple(place)
