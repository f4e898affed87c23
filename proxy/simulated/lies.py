"""What the faults about contents do to honest entries and answers; knows no requests, prompts or HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import orjson

from proxy.simulated.answer import Answer
from proxy.simulated.entries import Entries, Pairs, framed
from proxy.simulated.schema import is_list, is_object

Rewrite = Callable[[str], Any]
"""Writes another entry for a key."""
EntryLie = Callable[[Pairs, Rewrite], Pairs]

_NO = "I'm sorry, but I can't help with that."
_HUGE_CHARS = 4_000_000


def _missing(pairs: Pairs, _: Rewrite) -> Pairs:
    out = len(pairs) // 2
    return pairs[:out] + pairs[out + 1 :]


def _doubled(pairs: Pairs, again: Rewrite) -> Pairs:
    key = pairs[0][0]
    return [pairs[0], (key, again(key)), *pairs[1:]]


def _unknown(pairs: Pairs, again: Rewrite) -> Pairs:
    key = pairs[0][0]
    return [pairs[0], (f"{key}x", again(key)), *pairs[1:]]


def _reordered(pairs: Pairs, _: Rewrite) -> Pairs:
    return pairs[::-1]


def _crossed(pairs: Pairs, _: Rewrite) -> Pairs:
    values = [value for _, value in pairs]
    return [(key, value) for (key, _), value in zip(pairs, values[1:] + values[:1], strict=True)]


def _invalid(pairs: Pairs, _: Rewrite) -> Pairs:
    key, value = pairs[-1]
    return [*pairs[:-1], (key, broken(value))]


def _wrong_types(pairs: Pairs, _: Rewrite) -> Pairs:
    return [(key, retyped(value)) for key, value in pairs]


ENTRY_LIES: Mapping[str, EntryLie] = MappingProxyType(
    {
        "missing": _missing,
        "doubled": _doubled,
        "unknown": _unknown,
        "reordered": _reordered,
        "crossed": _crossed,
        "invalid": _invalid,
        "tool_use_failed": _invalid,
        "wrong_types": _wrong_types,
    }
)


def broken(value: Any) -> Any:
    """Return the value with its longest member's type gone wrong, or something else where it has no members."""
    if not is_object(value) or not value:
        return 7
    worst = max(value, key=lambda name: len(orjson.dumps(value[name])))
    return value | {worst: retyped(value[worst])}


def retyped(value: Any) -> Any:
    """Return the value with another type in every place."""
    if is_object(value):
        return {name: retyped(item) for name, item in value.items()} or "nothing"
    if isinstance(value, str):
        return [value]
    return orjson.dumps(value).decode() if is_list(value) else str(value)


VALUE_LIES: Mapping[str, Callable[[Any], Any]] = MappingProxyType({"invalid": broken, "wrong_types": retyped})
"""The same for an answer that is one thing."""


def frame(fault: str, entries: Entries, pairs: Pairs) -> str:
    """Return the JSON text of an answer, in another form than asked for where the fault says so."""
    match fault:
        case "array":
            flat = all(is_object(value) for _, value in pairs)
            return framed(
                replace(entries, form="object" if entries.form == "array" else "array", value_field=None if flat else "value"), pairs
            )
        case "unkeyed":
            return framed(replace(entries, form="array"), pairs, unkeyed=True)
        case "stringified":
            inner = framed(replace(entries, member=None), pairs)
            return orjson.dumps({entries.member or "answer": inner}).decode()
        case _:
            return framed(entries, pairs)


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()


def _leaked(answer: Answer) -> Answer:
    name = answer.tool or "answer"
    text = f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{answer.text}<|call|>"
    return replace(answer, text=text, tool=None, finish="stop")


def _fenced(answer: Answer) -> Answer:
    text = f"Here is what you asked for:\n\n```json\n{answer.text}\n```\n\nLet me know if {{anything}} should change."
    return replace(answer, text=text, tool=None, finish="stop")


TEXT_LIES: Mapping[str, Callable[[Answer], Answer]] = MappingProxyType(
    {
        "text": lambda a: replace(a, tool=None, finish="stop"),
        "fenced": _fenced,
        "leaked": _leaked,
        "double_encoded": lambda a: replace(a, text=_quoted(a.text)),
        "cut_off": lambda a: replace(a, text=a.text[: len(a.text) * 3 // 5], finish="length"),
        "empty": lambda a: replace(a, text="", tool=None, finish="stop"),
        "refusal": lambda a: replace(a, text="", tool=None, finish="stop", refusal=_NO),
        "content_filter": lambda a: replace(a, text="", tool=None, finish="content_filter"),
        "huge": lambda a: replace(a, text=a.text[: len(a.text) // 2] + "and so on " * (_HUGE_CHARS // 10), finish="length"),
    }
)
