"""Writes strings and numbers as a schema bounds them; knows nothing of objects, arrays or requests."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Protocol

from proxy.simulated.pattern import matching
from proxy.simulated.prose import Prose
from proxy.simulated.schema import Json, count, number
from proxy.simulated.topic import Topic

_LONGEST_STRING = 100_000
_LONGEST_LABEL = 80
_PLAUSIBLE = 20
_LARGEST_INTEGER = 2**63
_LONG = frozenset({"content", "body", "text", "lesson", "markdown", "html", "passage", "article", "essay", "story", "reading"})
_MEDIUM = frozenset({
    "explanation", "summary", "description", "introduction", "intro", "overview", "conclusion", "feedback", "rationale", "example",
    "script", "notes", "solution", "hook", "instructions",
})  # fmt: skip
_MEDIUM_WORDS = 20
_TITLE = frozenset({"title", "name", "heading", "headline", "topic", "subject", "question", "prompt", "answer"})
_FORMATS: Mapping[str, Callable[[str], str]] = {
    "date-time": lambda _: "2024-05-17T09:30:00Z",
    "date": lambda _: "2024-05-17",
    "time": lambda _: "09:30:00Z",
    "duration": lambda _: "PT40M",
    "email": lambda mark: f"learner-{mark}@example.com",
    "idn-email": lambda mark: f"learner-{mark}@example.com",
    "hostname": lambda mark: f"h{mark}.example.com",
    "ipv4": lambda mark: f"10.{int(mark[:2], 16)}.{int(mark[2:4], 16)}.{int(mark[4:], 16)}",
    "ipv6": lambda mark: f"2001:db8::{mark[:4]}",
    "uri": lambda mark: f"https://example.com/{mark}",
    "url": lambda mark: f"https://example.com/{mark}",
    "iri": lambda mark: f"https://example.com/{mark}",
    "uri-reference": lambda mark: f"/{mark}",
    "uuid": lambda mark: f"{mark}00-0000-4000-8000-000000{mark}",
    "json-pointer": lambda mark: f"/{mark}",
    "regex": lambda mark: f"^{mark}$",
}


class Author(Protocol):
    """Who writes: the topic, the words and the generator of one answer."""

    topic: Topic
    prose: Prose
    chance: random.Random
    content_words: int


def string(schema: Json, name: str, author: Author) -> str:
    """Return a string for a member called `name`, its bounds, pattern and format kept where they can be."""
    least = min(count(schema, "minLength", 0), _LONGEST_STRING)
    most = min(count(schema, "maxLength", _LONGEST_STRING), _LONGEST_STRING)
    form, pattern = schema.get("format"), schema.get("pattern")
    if isinstance(pattern, str) and (found := matching(pattern, author.chance, least, most)) is not None:
        return found
    if isinstance(form, str) and form in _FORMATS:
        return _FORMATS[form](author.prose.edition())
    label = author.topic.labels.get(name.lower(), "")
    if label and least <= len(label) <= min(most, _LONGEST_LABEL) and name.lower() not in _LONG:
        return label
    return _fitted(_words(name.lower(), author), author, least, most)


def _words(name: str, author: Author) -> str:
    last = name.rpartition("_")[2]
    if name in _LONG or last in _LONG:
        return author.prose.text(author.content_words)
    if name in _MEDIUM or last in _MEDIUM:
        return author.prose.text(min(_MEDIUM_WORDS, author.content_words))
    return author.prose.phrase() if name in _TITLE or last in _TITLE else author.prose.few()


def _fitted(text: str, author: Author, least: int, most: int) -> str:
    while len(text) < least:
        text = f"{text} {author.prose.text((least - len(text)) // 6 + 1)}"
    if len(text) <= most:
        return text
    cut = text[:most]
    whole = cut.rpartition(" ")[0].rstrip(" ,.;")
    return whole if whole and len(whole) >= least else cut


def numeric(schema: Json, said: str | None, chance: random.Random, *, whole: bool) -> float:
    """Return a number within its bounds: the one that the prompt says where it fits, else a small one."""
    value = _number(schema, said, chance, whole=whole)
    return value if abs(value) < _LARGEST_INTEGER else float(value)


def _number(schema: Json, said: str | None, chance: random.Random, *, whole: bool) -> float:
    low, high = _bounds(schema, whole=whole)
    step = number(schema, "multipleOf", 0)
    if said is not None and (told := _told(said)) is not None and low <= told <= high and not (whole and told % 1) and step <= 0:
        return int(told) if whole else told
    if step > 0:
        return _multiple(step, low, high, chance, whole=whole)
    # schemas generators bound integers by ±2^53: a plausible small number is meant
    start = max(low, min(1, high))
    if math.isinf(start):
        start = high - _PLAUSIBLE if math.isfinite(high) else 1
    end = min(high, start + _PLAUSIBLE)
    if math.ceil(start) <= math.floor(end) or whole:
        return chance.randint(math.ceil(start), max(math.ceil(start), math.floor(end)))
    return (low + high) / 2 if math.isfinite(low) else start


def _multiple(step: float, low: float, high: float, chance: random.Random, *, whole: bool) -> float:
    first = math.ceil(max(low, min(step, high)) / step) if math.isfinite(low) or high >= step else math.floor(high / step)
    last = math.floor(min(high, (first + _PLAUSIBLE) * step) / step)
    value = chance.randint(first, max(first, last)) * step
    return int(value) if whole or value == int(value) else round(value, 10)


def _bounds(schema: Json, *, whole: bool) -> tuple[float, float]:
    low, high = number(schema, "minimum", -math.inf), number(schema, "maximum", math.inf)
    # draft 4 says `exclusiveMinimum: true` beside `minimum`, later drafts give the number itself
    above = low if schema.get("exclusiveMinimum") is True else number(schema, "exclusiveMinimum", -math.inf)
    below = high if schema.get("exclusiveMaximum") is True else number(schema, "exclusiveMaximum", math.inf)
    return max(low, _beyond(above, 1, whole=whole)), min(high, _beyond(below, -1, whole=whole))


def _beyond(bound: float, direction: int, *, whole: bool) -> float:
    """Return the next number past an exclusive bound, upwards (1) or downwards (-1)."""
    if math.isinf(bound):
        return bound
    if whole:
        return math.floor(bound) + 1 if direction > 0 else math.ceil(bound) - 1
    return math.nextafter(bound, direction * math.inf)


def _told(said: str) -> float | None:
    try:
        value = float(said.rstrip("%").split(" ")[0])
    except ValueError:
        return None
    return value if math.isfinite(value) else None
