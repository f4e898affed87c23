"""What tests of splitting share: keys, lessons, every accepted form of an answer, and ways to cut it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal

import orjson
from hypothesis import strategies as st

from proxy.lessons.split import Invalid, Part, Split, Stray, Valid
from proxy.model import Lesson, Piece
from tests.make import make_lessons

KEYS = ("k7a", "q2b", "z9c")
TRICKY = 'Braces { ] }, a quote ", a backslash \\, \u00e9 \U0001f600 \u2028 and "q2b": {"title": "no entry"}'
LESSONS: tuple[dict[str, Any], ...] = tuple({"title": f"Lesson {key}", "content": f"{TRICKY} of {key}"} for key in KEYS)


def dumps(value: Any) -> str:
    return orjson.dumps(value).decode()


def forms(values: Sequence[Any], keys: Sequence[str] = KEYS) -> dict[str, str]:
    """Every form in which an answer is accepted, for lessons (or texts) of these keys."""
    keyed = dict(zip(keys, values, strict=True))
    array = [{"key": key, "lesson": value} for key, value in keyed.items()]
    batch = {"lessons": keyed}
    told = dumps(batch)
    accepted = {
        "object": told,
        "indented": orjson.dumps(batch, option=orjson.OPT_INDENT_2).decode(),
        "wrapper dropped": dumps(keyed),
        "array": dumps({"lessons": array}),
        "bare array": dumps(array),
        "lesson before key": dumps([{"lesson": value, "key": key} for key, value in keyed.items()]),
        "one object each": dumps([{key: value} for key, value in keyed.items()]),
        "one document each": "\n".join(dumps(element) for element in array),
        "lessons in a string": dumps({"lessons": dumps(keyed)}),
        "all in a string": dumps(told),
        "twice in strings": dumps(dumps(dumps(keyed))),
        "named call": dumps({"name": "create_lesson_batch", "arguments": batch}),
        "named call in a string": dumps([{"function": {"name": "create_lesson_batch", "arguments": told}}]),
        "tool name as wrapper": dumps({"create_lesson_batch": batch}),
        "tagged call": f"<tool_call>\n{told}\n</tool_call>",
        "fenced": f"Here are the {{3}} lessons [as asked]:\n```json\n{told}\n```\nEnjoy!",
        "byte order mark": f"\ufeff{told}",
        "after thinking": f"I'll use k7a for the first, then q2b: {{...}}.\n\n{told}",
        "lessons twice": f'{{"lessons":{{}},"lessons":{dumps(keyed)}}}',
        "trailing comma": told[:-2] + ",},}",
    }
    if all(isinstance(value, dict) for value in values):
        accepted["key inline"] = dumps({"lessons": [{"key": key, **value} for key, value in keyed.items()]})
        accepted["entries in strings"] = dumps({"lessons": {key: dumps(value) for key, value in keyed.items()}})
        accepted["commas forgotten"] = told.replace('},"q2b"', '}"q2b"')
    return accepted


def pieces(text: str, cuts: Iterable[int] = (), kind: Literal["arguments", "content"] = "arguments") -> list[Piece]:
    """Cut a text at these places."""
    places = [0, *sorted({cut for cut in cuts if 0 < cut < len(text)}), len(text)]
    return [Piece(kind, text[start:end]) for start, end in pairwise(places)]


def run(
    said: Iterable[Piece] | str, lessons: Sequence[Lesson] | None = None, keys: Sequence[str] = KEYS, *, cut_off: bool = False
) -> list[Part]:
    """Split one answer to its end."""
    split = Split(make_lessons(len(keys)) if lessons is None else lessons, keys)
    parts = [part for piece in (pieces(said) if isinstance(said, str) else said) for part in split.feed(piece)]
    return parts + split.finish(cut_off=cut_off)


def contents(parts: Iterable[Part]) -> dict[int, str]:
    return {part.index: part.content for part in parts if isinstance(part, Valid)}


def faults(parts: Iterable[Part]) -> dict[int, str]:
    return {part.index: part.reason for part in parts if isinstance(part, Invalid)}


def strays(parts: Iterable[Part]) -> list[str]:
    return [part.reason for part in parts if isinstance(part, Stray)]


def outcomes(parts: Iterable[Part]) -> list[tuple[str, int | str, str, str]]:
    """Everything that parts say, comparable."""
    told: list[tuple[str, int | str, str, str]] = []
    for part in parts:
        match part:
            case Valid():
                told.append(("valid", part.index, "", part.content))
            case Invalid():
                told.append(("invalid", part.index, part.reason, part.text))
            case Stray():
                told.append(("stray", "", part.reason, part.text))
    return told


_SHARDS = [
    *'{}[]":,\\ \n0-tN',
    *(f'"{key}"' for key in KEYS),
    *(f'"{key}":' for key in KEYS),
    '"lessons":',
    '{"lessons":{',
    '"key":',
    '"lesson":',
    '\\"',
    "\\u",
    "\\ud83d",
    "null",
    "```json",
    "\ud83d",
    "\ude00",
    "\x00",
]
_LESSONS = [dumps(LESSONS[0]), dumps(dumps(LESSONS[1])), dumps({"k7a": LESSONS[0]})]
_TOKENS = st.sampled_from(_SHARDS + _LESSONS)
NOISE = st.one_of(st.text(st.characters(), max_size=60), st.lists(st.sampled_from(_SHARDS), max_size=30).map("".join))
"""What holds no lesson."""
ANSWERS = st.one_of(
    st.text(st.characters(), max_size=60),
    st.lists(_TOKENS, max_size=40).map("".join),
    st.tuples(st.sampled_from(sorted(forms(LESSONS).values())), st.integers(0, 2000), st.lists(_TOKENS, max_size=3).map("".join)).map(
        lambda part: part[0][: part[1]] + part[2] + part[0][part[1] :]
    ),
)
"""Whatever a model may write: noise, JSON-like noise, and good answers with something put in."""
CUTS = st.lists(st.integers(0, 600), max_size=30)
