"""Finds JSON objects that stand inside a prompt's text; it knows their form, not what they mean.

Bounded: at most `MAX_FAILURES` places of a text are tried in vain, each in time linear in the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

from proxy.lessons.labels import trimmed, variants
from proxy.lessons.structure import fold
from proxy.model import Json

MAX_FAILURES = 8
MAX_OBJECTS = 200
_MAX_DEPTH = 3
_MAX_NAME = 60
_MAX_VALUES = 2_000
_MIN_WORDS = 3
_MIN_CHARS = 20
_START = re.compile(r"\{\s{0,40}[\"']")
# in what is no JSON but nearly so (cut off, a trailing comma, a dict as Python prints it)
_FILLED = re.compile(r"[\"']([\w -]{1,60})[\"']\s{0,3}:\s{0,3}[\"'](?=[^\"\n]{20})")
_LOOSE_CHARS = 20_000
_DECODER = json.JSONDecoder()
_FORMAT_WORDS = frozenset({"format", "schema", "shape", "structure", "template", "formato", "schéma", "esquema"})
_WORD = re.compile(r"\w+")
_PROMPT_TAIL = 100


@dataclass(slots=True)
class Embedded:
    """The objects that a text holds as data, and the text around them."""

    objects: list[Json] = field(default_factory=list[Json], repr=False)
    forms: list[Json] = field(default_factory=list[Json], repr=False)
    """Objects that the text introduces as the form of the answer."""
    around: str = field(default="", repr=False)
    broken: list[str] = field(default_factory=list[str], repr=False)
    """Texts that begin as an object and are none."""
    unread: bool = False
    """The text holds more than is read."""


def split_objects(text: str) -> Embedded:
    """Part the objects that a text holds as data from the text around them.

    An object that the text introduces as the form of the answer ("in this format: {...}") stays in the text.
    """
    parted = Embedded()
    around: list[str] = []
    position = failures = 0
    while (start := _START.search(text, position)) is not None:
        if failures == MAX_FAILURES or len(parted.objects) == MAX_OBJECTS:
            parted.unread = True
            break
        found, end = _decode(text, start.start())
        as_format = _is_format(text, start.start())
        failures += found is None or as_format
        if found is not None and not as_format:
            parted.objects.append(found)
            around.extend((text[position : start.start()], "\n"))
        else:
            around.append(text[position:end])
            if found is not None:
                parted.forms.append(found)
            elif not as_format:
                parted.broken.append(text[start.start() : start.start() + _LOOSE_CHARS])
        position = end
    around.append(text[position:])
    parted.around = "".join(around)
    return parted


def _decode(text: str, start: int) -> tuple[Json | None, int]:
    try:
        found, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, start + 1
    return cast("Json", found), end


def _is_format(text: str, start: int) -> bool:
    before = text[max(0, start - _PROMPT_TAIL) : start].casefold().rstrip(" \t\r\n`").removesuffix("json").rstrip(" \t\r\n`")
    sentence = before[before[:-1].rfind(".") + 1 :].rsplit("\n", 1)[-1]
    return before.endswith((":", "=")) and not _FORMAT_WORDS.isdisjoint(_WORD.findall(sentence))


def _dicts(objects: Iterable[Json]) -> Iterator[Json]:
    """Yield the objects and those inside them, lists left out: what stands in a list is one of several."""
    level = list(objects)
    for _ in range(_MAX_DEPTH):
        yield from level
        level = [cast("Json", value) for known in level for value in known.values() if isinstance(value, dict)]


@lru_cache(maxsize=256)
def key_variants(name: str) -> frozenset[str]:
    """Return the folded forms of a key: `topic`, `topicName`, `lesson_topic` and so on."""
    return frozenset(map(fold, variants(name)))


def values_of(objects: Iterable[Json], name: str) -> list[str]:
    """Return the texts that stand under a key or a usual variant of it (folded), at most two objects deep."""
    wanted = key_variants(name)
    found: list[str] = []
    for known in _dicts(objects):
        for key, value in known.items():
            if isinstance(value, str) and len(key) <= _MAX_NAME and fold(key) in wanted:
                kept = trimmed(value)
                found.extend(() if kept is None else (kept,))
    return found


def filled_keys(objects: Iterable[Json], broken: Iterable[str] = ()) -> frozenset[str]:
    """Return the folded keys under which real text stands."""
    filled = {key for known in _dicts(objects) for key, value in known.items() if len(key) <= _MAX_NAME and _is_filled(value, _MAX_DEPTH)}
    filled.update(key for text in broken for key in _FILLED.findall(text))
    return frozenset(map(fold, filled))


def _is_filled(value: Any, depth: int) -> bool:
    if isinstance(value, str):
        return len(value) >= _MIN_CHARS or len(value.split()) >= _MIN_WORDS
    if depth == 0 or not isinstance(value, (dict, list)):
        return False
    inner = cast("Json", value).values() if isinstance(value, dict) else cast("list[Any]", value)[:5]
    return any(_is_filled(item, depth - 1) for item in inner)


def form_fields(forms: Iterable[Json]) -> frozenset[str]:
    """Return the folded top-level keys of the objects that show the form of the answer."""
    return frozenset(fold(key) for form in forms for key in form if len(key) <= _MAX_NAME)


def spoken(objects: Iterable[Json], silent: Iterable[str]) -> list[str]:
    """Return the texts of the objects, those under the silent keys left out."""
    quiet = frozenset[str]().union(*map(key_variants, silent))
    texts: list[str] = []
    level: list[Any] = list(objects)
    while level and len(texts) < _MAX_VALUES:
        value = level.pop()
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, list):
            level.extend(cast("list[Any]", value))
        elif isinstance(value, dict):
            level.extend(item for key, item in cast("Json", value).items() if len(key) > _MAX_NAME or fold(key) not in quiet)
    return texts
