"""Divides what upstream writes for a batch into its callers' lessons, each the moment its entry closes; it knows no I/O.

Only keys decide whose an entry is, never order or number. The first valid entry of a key is its caller's. An entry that
fails is held until the end, since a valid one may still follow; until then its caller waits, and goes alone afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from proxy.lessons.checks import Fit, Unfit, inspect
from proxy.lessons.crossing import Crossing, nests
from proxy.lessons.scanner import Entry, Scanner
from proxy.model import Lesson, Piece

MAX_TEXT = 4_000_000
"""Characters that are read of one batch; what follows is as if it had been cut off."""


@dataclass(frozen=True, slots=True)
class Valid:
    """A lesson that its caller can be given."""

    index: int
    """Its place in the batch."""
    content: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Invalid:
    """A lesson that this batch does not bring."""

    index: int
    reason: str
    """`missing`, `cut_off`, `ambiguous`, `crossed`, or a reason of `checks.Unfit`."""
    text: str = field(default="", repr=False)
    """What there was of it: its tokens were spent."""


@dataclass(frozen=True, slots=True)
class Stray:
    """An entry that nobody gets."""

    reason: str
    """`doubled`: its key has its lesson or its fault already; `unknown`: nobody's key; else why it was invalid, before
    the valid entry of the same key."""
    text: str = field(repr=False)


Part = Valid | Invalid | Stray


class Split:
    """Reads one batch's answer: by `finish`, each index has had exactly one Valid or Invalid. Never raises."""

    def __init__(self, lessons: Sequence[Lesson], keys: Sequence[str]) -> None:
        """Expect an entry under `keys[i]` for `lessons[i]`."""
        self._lessons = lessons
        self._indexes = {key: index for index, key in enumerate(keys)}
        self._crossing = Crossing(lessons)
        self._keys = frozenset(keys)
        self._content = Scanner(self._keys)
        self._calls: dict[int, Scanner] = {}
        """By tool call: what several write by turns must not run together."""
        self._room = MAX_TEXT
        self._done: set[int] = set()
        self._held: dict[int, Invalid] = {}

    def feed(self, piece: Piece) -> list[Part]:
        """Read on; return what closed, in the order in which it was written."""
        text = piece.text
        if len(text) > self._room:
            text = text[: self._room]
        self._room -= len(text)
        scanner = self._content
        entries: list[Entry] = []
        if piece.kind == "arguments":
            scanner = self._calls.get(piece.call) or self._calls.setdefault(piece.call, Scanner(self._keys))
            if piece.opens:
                entries = scanner.finish()
        entries += scanner.feed(text)
        return self._parts(entries) if entries else []

    def finish(self, *, cut_off: bool) -> list[Part]:
        """End the reading, once; `cut_off`: upstream stopped in the middle (token limit, broken stream)."""
        parts = [part for scanner in (*self._calls.values(), self._content) for part in self._parts(scanner.finish())]
        reason = "cut_off" if cut_off or self._room == 0 else "missing"
        for index in range(len(self._lessons)):
            if index not in self._done:
                self._done.add(index)
                parts.append(self._held.pop(index, None) or Invalid(index, reason))
        self._room = 0
        return parts

    def _parts(self, entries: list[Entry]) -> list[Part]:
        return [part for entry in entries for part in self._take(entry)]

    def _take(self, entry: Entry) -> list[Part]:
        index = self._indexes.get(entry.key)
        if index is None:
            return [Stray("unknown", entry.text)]
        if index in self._done:
            return [Stray("doubled", entry.text)]
        verdict = self._judge(index, entry)
        held = self._held.get(index)
        if isinstance(verdict, Unfit):
            if held is not None:
                return [Stray("doubled", entry.text)]
            self._held[index] = Invalid(index, verdict.reason, entry.text)
            return []
        self._done.add(index)
        dropped = self._held.pop(index, None)
        valid = Valid(index, verdict.content)
        return [Stray(dropped.reason, dropped.text), valid] if dropped else [valid]

    def _judge(self, index: int, entry: Entry) -> Fit | Unfit:
        """Return the first reading that fits, or why the likelier one doesn't."""
        if entry.fault:
            return Unfit(entry.fault)
        first: Unfit | None = None
        for reading in entry.readings:
            verdict = inspect(self._lessons[index], reading)
            if isinstance(verdict, Fit) and (nests(verdict.value, self._keys) or self._crossing.crossed(index, verdict.value)):
                verdict = Unfit("crossed")
            if isinstance(verdict, Fit):
                return verdict
            first = first or verdict
        return first or Unfit("ambiguous")
