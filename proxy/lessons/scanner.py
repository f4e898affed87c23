"""A push parser that finds keyed entries in whatever a model wrote; it knows neither lessons, schemas nor checks.

Outside of JSON it skips prose to the next bracket. Inside, a small strict grammar walks the wrappers (the objects and
arrays that lead to entries); an entry's own value is only read over by its strings and brackets, since whoever takes it
parses it strictly. A broken wrapper is left at once and the search begins anew behind the break: every character is
looked at once, however the text is cut.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from proxy.lessons.literals import Capture, joined, unquoted, unquoted_so_far

WRAPPERS = frozenset({"lessons", "create_lesson_batch", "tool_calls", "function", "arguments", "parameters", "input"})
"""Members that may lead to entries: the batch's own, and those of a tool call that leaked into the text."""

MAX_FRAMES = 8
"""Wrappers within wrappers; what lies deeper is read over."""

MAX_ENCODED = 2
"""JSON in a JSON string in a JSON string; what lies deeper is text."""

Fault = Literal["", "cut_off", "not_json", "ambiguous"]
Place = Literal["", "lessons", "element"]
"""Where an object stands: as `lessons`, whose members are entries; in an array, as one entry; elsewhere."""

_OPENER = re.compile(r"[{\[]")
_FIRST = re.compile(r"[^\s\ufeff]")
_INK = re.compile(r"\S")
_SCALAR_STARTS = frozenset("-0123456789tfnNI")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as the model wrote it."""

    key: str
    """As written: it may be one that nobody asked for, or empty where the entry names none."""
    readings: tuple[str, ...] = field(repr=False)
    """The entry's JSON text; where it can be read in two ways, the likelier first."""
    fault: Fault = ""
    """Set where the entry did not end as it should; the reading is then what there was of it."""

    @property
    def text(self) -> str:
        """Return the likelier reading, empty where there is none."""
        return self.readings[0] if self.readings else ""


@dataclass(slots=True)
class _Frame:
    """An open wrapper."""

    array: bool
    place: Place
    expects: Literal["first", "item", "colon", "value", "next"] = "first"
    name: str = ""
    after_bracket: bool = False
    members: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Names and JSON texts that were neither entries nor wrappers."""
    keys: dict[str, None] = field(default_factory=dict[str, None])
    """What members called `key` said, in order."""
    owned: bool = False
    """One of them is a key that was asked for: the object is an entry, and its other members are the lesson's own."""
    wrapped: bool = False
    """A wrapper was walked into: `members` are not all that the object holds."""
    named: bool = False
    """An entry stood here under its own name."""
    pending: Entry | None = None
    """An entry that ended with a quote: only what follows shows that the quote was meant as its end."""


class Scanner:
    """Reads one document, or several after one another, with prose around them. Never raises."""

    __slots__ = ("_capture", "_encoded", "_found", "_frames", "_fresh", "_keys", "_place")

    def __init__(self, keys: frozenset[str], *, encoded: int = 0, place: Place = "") -> None:
        self._keys = keys
        self._encoded = encoded
        self._place: Place = place
        self._frames: list[_Frame] = []
        self._capture: Capture | None = None
        self._fresh = True
        self._found: list[Entry] = []

    def feed(self, text: str) -> list[Entry]:
        """Read on; return the entries that closed."""
        at, end = 0, len(text)
        while at < end:
            if self._capture is not None:
                at = self._capture.read(text, at)
                if self._capture.closed:
                    self._captured(self._capture)
            elif self._frames:
                at = self._walk(self._frames[-1], text, at)
            else:
                at = self._seek(text, at)
        return self._take() if self._found else []

    def finish(self) -> list[Entry]:
        """Return what is still open, each with its fault; what is fed afterwards is a new document."""
        self._leave("cut_off")
        self._fresh = True
        return self._take()

    def _take(self) -> list[Entry]:
        found, self._found = self._found, []
        return found

    def _seek(self, text: str, at: int) -> int:
        """Skip what is not JSON."""
        if self._fresh:
            first = _FIRST.search(text, at)
            if first is None:
                return len(text)
            self._fresh = False
            if first[0] == '"':  # the whole document may be JSON in a string
                self._capture = Capture("string")
                return self._capture.begin(text, first.start())
        opener = _OPENER.search(text, at)
        if opener is None:
            return len(text)
        self._frames.append(_Frame(opener[0] == "[", self._place))
        return opener.end()

    def _walk(self, frame: _Frame, text: str, at: int) -> int:
        """Take the next token of a wrapper."""
        ink = _INK.search(text, at)
        if ink is None:
            return len(text)
        at, char = ink.start(), ink[0]
        match frame.expects:
            case "first" | "item" | "next" if char == ("]" if frame.array else "}"):
                self._close(frame)
            case "colon" if char == ":":
                self._confirm(frame)
                frame.expects = "value"
            case "next" if char == ",":
                frame.expects = "item"
            case "value" | "first" | "item" if frame.array or frame.expects == "value":
                return self._value(frame, text, at)
            case "first" | "item":
                return self._name(text, at)
            case "next" if frame.after_bracket and not frame.array:  # a comma forgotten behind a bracket does no harm
                return self._name(text, at)
            case _:
                return self._abandon(at)
        return at + 1

    def _name(self, text: str, at: int) -> int:
        if text[at] != '"':
            return self._abandon(at)
        self._capture = Capture("name")
        return self._capture.begin(text, at)

    def _value(self, frame: _Frame, text: str, at: int) -> int:
        char = text[at]
        if char in "{[" and self._leads_on(frame) and len(self._frames) < MAX_FRAMES:
            frame.wrapped = True
            self._frames.append(_Frame(char == "[", _place_within(frame)))
            return at + 1
        if char in _SCALAR_STARTS:
            self._capture = Capture("scalar")
            return at
        if char not in '{["':
            return self._abandon(at)
        self._capture = Capture("string" if char == '"' else "container")
        return self._capture.begin(text, at)

    def _leads_on(self, frame: _Frame) -> bool:
        """Tell whether the value at hand is a wrapper."""
        return frame.array or (frame.name in WRAPPERS and frame.name not in self._keys and not frame.owned)

    def _close(self, frame: _Frame) -> None:
        self._confirm(frame)
        self._found.extend(self._unnamed(frame))
        self._frames.pop()
        if self._frames:
            self._frames[-1].expects, self._frames[-1].after_bracket = "next", True

    def _confirm(self, frame: _Frame) -> None:
        if frame.pending is not None:
            self._found.append(frame.pending)
            frame.pending = None

    def _captured(self, capture: Capture) -> None:
        """Take a name or value that has closed."""
        self._capture = None
        text = capture.text
        if not self._frames:
            self._found.extend(self._decoded(unquoted(text), self._place))
            return
        frame = self._frames[-1]
        if capture.kind == "name":
            frame.name, frame.expects = unquoted(text), "colon"
            return
        frame.expects, frame.after_bracket = "next", capture.kind == "container"
        if self._leads_on(frame):
            if capture.kind == "string":
                self._found.extend(self._decoded(unquoted(text), _place_within(frame)))
        elif frame.name in self._keys:
            frame.named = True
            frame.pending = Entry(frame.name, (text,))
            if frame.after_bracket:
                self._confirm(frame)
        else:
            self._member(frame, text)

    def _member(self, frame: _Frame, text: str) -> None:
        frame.members.append((frame.name, text))
        if frame.name == "key":
            key = unquoted(text)
            frame.keys[key] = None
            frame.owned = frame.owned or key in self._keys

    def _abandon(self, at: int) -> int:
        """Leave a broken document; the next one may begin right here."""
        self._leave("not_json")
        return at

    def _leave(self, fault: Fault) -> None:
        capture, self._capture = self._capture, None
        frames, self._frames = self._frames, []
        if capture is not None and capture.kind != "name":
            self._leave_capture(capture.text, frames[-1] if frames else None, fault)
        for frame in reversed(frames):
            torn = [frame.pending] if frame.pending else []
            self._found.extend(Entry(entry.key, entry.readings, fault) for entry in [*torn, *self._unnamed(frame)])

    def _leave_capture(self, text: str, frame: _Frame | None, fault: Fault) -> None:
        if frame is None or self._leads_on(frame):
            place = self._place if frame is None else _place_within(frame)
            self._found.extend(self._decoded(unquoted_so_far(text), place))
        elif frame.name in self._keys:
            self._found.append(Entry(frame.name, (text,), fault))
        else:
            frame.members.append((frame.name, text))

    def _decoded(self, text: str, place: Place) -> list[Entry]:
        """Read JSON that was written into a string."""
        if self._encoded >= MAX_ENCODED or not text:
            return []
        inner = Scanner(self._keys, encoded=self._encoded + 1, place=place)
        return [*inner.feed(text), *inner.finish()]

    def _unnamed(self, frame: _Frame) -> list[Entry]:
        """Return the entries that a wrapper held beside those under a known name."""
        if frame.array:
            return []
        if frame.owned or (frame.keys and frame.place == "element"):
            return [self._element(frame)]
        if frame.place == "lessons":
            return [Entry(name, (text,)) for name, text in frame.members]
        if frame.place == "element" and frame.members and not frame.named and not frame.wrapped:
            return [Entry("", (joined(frame.members),))]
        return []

    def _element(self, frame: _Frame) -> Entry:
        """Read `{"key": …, "lesson": …}`, or a lesson with its key among its fields."""
        rest = [(name, text) for name, text in frame.members if name != "key"]
        lessons = [text for name, text in rest if name == "lesson"]
        inline = () if frame.wrapped or len(rest) == len(lessons) else (joined(rest),)
        readings = (*lessons, *inline)
        key = next((key for key in frame.keys if key in self._keys), next(iter(frame.keys)))
        unclear = len(frame.keys) > 1 or len(lessons) > 1 or not readings
        return Entry(key, readings, "ambiguous" if unclear else "")


def _place_within(frame: _Frame) -> Place:
    if frame.array:
        return "element"
    return "lessons" if frame.name == "lessons" else ""
