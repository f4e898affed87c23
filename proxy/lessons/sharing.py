"""What calls have in common: whole messages first, then lines of the texts that differ; it knows no wording and no keys."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from proxy.lessons.unfit import UnfitError, copied
from proxy.model import Json

_BRACKETS = {"{": 1, "[": 1, "(": 1, "}": -1, "]": -1, ")": -1}
_MARKS = re.compile(r"[][{}()]|```|\"\"\"|</?[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Shared:
    """Calls taken apart; put together again in this order they say what each said alone."""

    before: list[Json] = field(repr=False)
    """Messages that all calls begin with."""
    leading: str = field(repr=False)
    """Lines that all differing texts begin with."""
    own: tuple[str, ...] = field(repr=False)
    """What only this call says, in the calls' order; empty where all calls are equal."""
    trailing: str = field(repr=False)
    after: list[Json] = field(repr=False)
    """Messages that all calls end with."""


def share(bodies: Sequence[Json]) -> Shared:
    """Take the messages of chat bodies apart, copied.

    UnfitError: "messages" (there are none), "message_parts" (what differs is more than users' text), "empty_request"
    (a call says nothing of its own), "body_depth".
    """
    calls = [_messages(body) for body in bodies]
    before = _common(calls)
    if all(len(call) == before for call in calls):
        return Shared(calls[0], "", (), "", [])
    shortest = min(map(len, calls))
    after = min(_common([call[::-1] for call in calls]), shortest - before)
    if before + after == shortest:
        # a call that only has what all have still says something: what it has last
        before, after = (before - 1, after) if before else (before, after - 1)
    texts = ["\n\n".join(_user_text(message) for message in call[before : len(call) - after]) for call in calls]
    if not all(text.strip() for text in texts):
        raise UnfitError("empty_request")
    leading, own, trailing = _common_lines(texts)
    return Shared(calls[0][:before], leading, own, trailing, calls[0][len(calls[0]) - after :])


def _messages(body: Json) -> list[Json]:
    messages = copied(body.get("messages"), "body_depth")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in cast("list[Any]", messages)):
        raise UnfitError("messages")
    return cast("list[Json]", messages)


def _common(sequences: Sequence[Sequence[Any]]) -> int:
    """Count the equal elements that all sequences begin with."""
    count = 0
    for elements in zip(*sequences, strict=False):
        if any(element != elements[0] for element in elements):
            break
        count += 1
    return count


def _user_text(message: Json) -> str:
    if message.get("role") != "user" or not message.keys() <= {"role", "content"}:
        raise UnfitError("message_parts")
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise UnfitError("message_parts")
    return "\n".join(_part_text(part) for part in cast("list[Any]", content))


def _part_text(part: Any) -> str:
    match part:
        case {"type": "text", "text": str(text), **others} if not others:
            return text
        case _:
            raise UnfitError("message_parts")


def _common_lines(texts: Sequence[str]) -> tuple[str, tuple[str, ...], str]:
    """Split texts into common first lines, what each has of its own, and common last lines.

    A block that would tear brackets, fences, tags or a heading from what belongs to it is shortened; where a text would
    keep nothing of its own, nothing is taken from any.
    """
    lines = [text.split("\n") for text in texts]
    shortest = min(map(len, lines))
    first = _whole(lines[0][: min(_common(lines), shortest - 1)])
    rest = [text[first:] for text in lines]
    last = min(_common([text[::-1] for text in rest]), shortest - first - 1)
    last = _whole_from_end(lines[0][len(lines[0]) - last :])
    own = tuple("\n".join(text[: len(text) - last]) for text in rest)
    if len(set(texts)) == 1 or not all(text.strip() for text in own):
        return "", tuple(texts), ""
    return "\n".join(lines[0][:first]), own, "\n".join(lines[0][len(lines[0]) - last :])


def _whole(lines: Sequence[str]) -> int:
    """Count the first lines, as many as are closed in themselves and don't end with a heading or a gap."""
    best, depths = 0, _Depths()
    for number, line in enumerate(lines, 1):
        depths.read(line)
        if depths.closed and line.strip() and not line.rstrip().endswith(":"):
            best = number
    return best


def _whole_from_end(lines: Sequence[str]) -> int:
    """Count the last lines, as many as are closed in themselves and don't begin with a gap."""
    best, depths = 0, _Depths()
    for number, line in enumerate(reversed(lines), 1):
        depths.read(line)
        if depths.closed and line.strip():
            best = number
    return best


class _Depths:
    """What is open after some lines: brackets, fences, tags."""

    def __init__(self) -> None:
        self._brackets = self._fences = self._tags = 0

    def read(self, line: str) -> None:
        for mark in _MARKS.findall(line):
            if mark in _BRACKETS:
                self._brackets += _BRACKETS[mark]
            elif mark[0] == "<":
                self._tags += -1 if mark[1] == "/" else 1
            else:
                self._fences += 1

    @property
    def closed(self) -> bool:
        return self._brackets == 0 and self._tags == 0 and self._fences % 2 == 0
