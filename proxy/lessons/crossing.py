"""Tells when an entry carries what is another caller's: right key, wrong content; it knows nothing of how it was written.

An exchange is seen only where it can be known: in top-level fields with listed values (`enum`, `const`) that the callers'
own texts name by a label (`Difficulty: easy`). Where the texts say the same, or nothing, it can't be seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from proxy.lessons.embedded import split_objects, values_of
from proxy.lessons.forms.chat import ChatRequest, read_chat
from proxy.lessons.labels import LabelReader, normalised
from proxy.lessons.schema import as_list, as_object, resolved
from proxy.lessons.unfit import UnfitError
from proxy.model import Json, Lesson

MAX_FIELDS = 32
MAX_CHARS = 20_000
"""Of one caller's texts; longer ones are not searched for labels."""
_MAX_HOPS = 4
_NESTED_LEVELS = 3
"""`{"lessons": [{"key": …}]}` is as deep as a batch goes."""


class Crossing:
    """What each call of a batch asked for, where that tells it from the others."""

    def __init__(self, lessons: Sequence[Lesson]) -> None:
        options = _listed_values(lessons[0].schema) if lessons and lessons[0].schema else {}
        self._asked = [_asked(lesson, options) for lesson in lessons] if options else []

    def crossed(self, index: int, value: Any) -> bool:
        """Tell whether a field of the lesson has another call's value, and not this one's own, both being known."""
        fields = as_object(value)
        if not self._asked or fields is None:
            return False
        for name, own in self._asked[index].items():
            written = _comparable(fields.get(name))
            if written != own and any(asked.get(name) == written for asked in self._asked):
                return True
        return False


def nests(value: Any, keys: frozenset[str]) -> bool:
    """Tell whether keys of the batch stand inside a lesson: the model wrote more than this caller's entry there."""
    level = [value]
    for _ in range(_NESTED_LEVELS):
        deeper: list[Any] = []
        for part in level:
            members = as_object(part)
            if members is None:
                deeper.extend(as_list(part) or ())
                continue
            key = members.get("key")
            if not keys.isdisjoint(members) or (isinstance(key, str) and key in keys):
                return True
            deeper.extend(members.values())
        level = deeper
    return False


def _asked(lesson: Lesson, options: dict[str, frozenset[str]]) -> dict[str, str]:
    """Return the one listed value by field that the caller's texts name; a field that they name in two ways is left out."""
    request = read_chat(lesson.body)
    texts = request.users if isinstance(request, ChatRequest) else ()
    if sum(map(len, texts)) > MAX_CHARS:
        return {}
    labels = _reader(tuple(_label(name) for name in options)).read(texts)
    objects = [found for text in texts for found in split_objects(text).objects]
    asked: dict[str, str] = {}
    for name, listed in options.items():
        said = {*(labels.values.get(_label(name), []) if labels else []), *values_of(objects, name)}
        named = {normalised(value) for value in said}
        if len(named) == 1 and named <= listed:
            asked[name] = named.pop()
    return asked


@lru_cache(maxsize=64)
def _reader(names: tuple[str, ...]) -> LabelReader:
    return LabelReader(names)


@lru_cache(maxsize=512)
def _label(name: str) -> str:
    """Write a field's name as a label: `difficultyLevel` and `difficulty_level` are `difficulty level`."""
    spaced = "".join(f" {letter}" if letter.isupper() else letter for letter in name)
    return " ".join(spaced.replace("_", " ").replace("-", " ").casefold().split())


def _listed_values(schema: Json) -> dict[str, frozenset[str]]:
    """Return the comparable values by top-level field, for fields that list theirs."""
    top = as_object(_followed(schema, schema)) or {}
    options: dict[str, frozenset[str]] = {}
    for name, part in (as_object(top.get("properties")) or {}).items():
        values = frozenset(_options(schema, part))
        if len(values) > 1 and len(options) < MAX_FIELDS:
            options[name] = values
    return options


def _options(root: Json, part: Any) -> Iterator[str]:
    waiting, seen = [part], set[int]()
    while waiting:
        node = as_object(_followed(root, waiting.pop()))
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        for value in [*(as_list(node.get("enum")) or ()), node.get("const")]:
            if (comparable := _comparable(value)) is not None:
                yield comparable
        for keyword in ("anyOf", "oneOf", "allOf"):
            waiting.extend(as_list(node.get(keyword)) or ())


def _followed(root: Json, part: Any) -> Any:
    for _ in range(_MAX_HOPS):
        reference = (as_object(part) or {}).get("$ref")
        if not isinstance(reference, str):
            break
        try:
            part = resolved(root, reference)
        except UnfitError:
            return None
    return part


def _comparable(value: Any) -> str | None:
    """Return a text or whole number as labels are compared."""
    return normalised(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else None
