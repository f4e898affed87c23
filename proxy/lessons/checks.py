"""Whether one entry of a batch is a lesson that its caller can be given; it knows nothing of the batch around it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

from proxy.lessons.literals import decode, mend
from proxy.lessons.validators import conforms
from proxy.model import Json, Lesson
from proxy.policy import FieldCheck

TEXT_FIELD = "content"
"""The name under which `checks` speak of a lesson that is plain text."""

_WORD = (
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]{1,2}"  # Chinese and Japanese put no spaces between words
    r"|[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]{1,5}"  # nor do Thai, Lao, Burmese, Khmer
    r"|[^\s\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]+"
)


@dataclass(frozen=True, slots=True)
class Fit:
    """An entry that passed: what its caller gets."""

    content: str = field(repr=False)
    """The model's own JSON text, or the decoded text where the caller asked for text."""
    value: Any = field(repr=False)
    """The same, parsed; a text that holds JSON is parsed too."""


@dataclass(frozen=True, slots=True)
class Unfit:
    """An entry that can't be handed over."""

    reason: str
    """`not_json`, `not_text`, `not_object`, `empty`, `schema`, `required`, `words`."""


def inspect(lesson: Lesson, reading: str) -> Fit | Unfit:
    """Check an entry's JSON text against the caller's shape, its own schema and the configured checks; never raises."""
    try:
        value = decode(reading)
    except ValueError:
        return Unfit("not_json")
    if lesson.shape == "text":
        return _inspect_text(lesson, value)
    content, value = _unwrapped(mend(reading), value)
    if not isinstance(value, dict) and (lesson.shape != "json_schema" or lesson.schema is None):
        return Unfit("not_object")
    if lesson.schema is not None and not conforms(lesson.schema, value):
        return Unfit("schema")
    fields = cast("Json", value) if isinstance(value, dict) else {}
    reason = next((fault for name, check in lesson.checks.items() if (fault := _fault(fields.get(name), check))), None)
    return Unfit(reason) if reason else Fit(content, value)


def words(value: Any) -> int:
    """Count the words of a text, or of all texts in a list or object; two ideographs count as a word."""
    count, rest = 0, [value]
    while rest:
        part = rest.pop()
        if isinstance(part, str):
            count += sum(1 for _ in _word().finditer(part))
        elif isinstance(part, list):
            rest.extend(cast("list[Any]", part))
        elif isinstance(part, dict):
            rest.extend(cast("Json", part).values())
    return count


@cache
def _word() -> re.Pattern[str]:
    # wide ranges are dear to compile, and only configured checks count words
    return re.compile(_WORD)


def _inspect_text(lesson: Lesson, value: Any) -> Fit | Unfit:
    if not isinstance(value, str):
        return Unfit("not_text")
    if not value.strip():
        return Unfit("empty")
    check = lesson.checks.get(TEXT_FIELD)
    reason = _fault(value, check) if check else None
    return Unfit(reason) if reason else Fit(value, _parsed(value))


def _parsed(text: str) -> Any:
    try:
        return decode(text) if text.lstrip()[:1] in ("{", "[") else None
    except ValueError:
        return None


def _unwrapped(content: str, value: Any) -> tuple[str, Any]:
    """Take the object out of a string in which a model wrote it."""
    if isinstance(value, str):
        try:
            inner = decode(value)
        except ValueError:
            return content, value
        if isinstance(inner, dict):
            return value, cast("Json", inner)
    return content, value


def _fault(value: Any, check: FieldCheck) -> str | None:
    """Return what is wrong with a field; one that is absent is only asked for where it is required."""
    if value is None or value in ([], {}) or (isinstance(value, str) and not value.strip()):
        absent = "required" if check.required else None
        return "words" if absent is None and value is not None and check.min_words else absent
    count = words(value) if check.min_words or check.max_words is not None else 0
    too_many = check.max_words is not None and count > check.max_words
    return "words" if count < check.min_words or too_many else None
