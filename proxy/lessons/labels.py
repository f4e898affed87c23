"""Reads labels (`Subject: X` and its relatives) from user texts; it knows their form, not which of them make a lesson.

Linear in the text, line by line; total: any text gives labels, or None where it holds more of them than a prompt would.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from proxy.lessons.structure import fold

MAX_LINES = 6_000
MAX_LABELS = 400
MAX_VALUE_CHARS = 200
_CUT_WINDOW = 400

_COLON = ":=\uff1a"
_LEAD = r"(?:(?![<\n])[\W_]){0,16}(?:\d{1,3}[.)]\s{0,4})?[*_`\[]{0,4}"
_HEAD = re.compile(rf"{_LEAD}([^\W\d_][^{_COLON}|\n]{{0,60}})[{_COLON}|]")
_DASHED = re.compile(rf"{_LEAD}([^\W\d_][\w ]{{0,40}}?)\s{{1,3}}[-\u2013\u2014]\s{{1,3}}(?=\S)")
_TITLE = re.compile(r"\s{0,16}(?:#{1,6}|\[\[|\*\*|<)[\s#]{0,4}([^\W\d_][\w -]{0,40}?)[\s#]{0,4}(?:\]\]|\*\*|>)?\s{0,8}$")
_NEXT = re.compile(rf"\s{{0,3}}[,;|]\s{{0,3}}[*_]{{0,3}}[^\W\d_]+(?: [^\W\d_]+){{0,2}}[*_]{{0,3}}\s?[{_COLON}]")
_SENTENCE_END = re.compile(r"[.!?;。！？]\s")  # noqa: RUF001 - full-width punctuation ends sentences too
_BULLET = re.compile(r"\s{0,16}(?:[-*+•]|\d{1,3}[.)])\s")
_FENCES = ("```", "~~~", '"""', "'''")
_NAME_WORDS = 5
"""What stands before a colon and is longer is a sentence, not a label."""
_MARKUP = " \t|*_`\"'\u201c\u201d\u201e\u00ab\u00bb#]["
_TRAILING = _MARKUP + ".,;:("
_BEFORE = ("lesson", "the", "main", "course", "school", "chosen", "selected", "study")
_AFTER = ("title", "name", "area")
_LETTERS = re.compile(r"[^\W\d_]+")
_PEOPLE_WORDS = """
learner learners student students pupil pupils reader readers child children kid kids class audience profile
mistakes misconceptions struggles weaknesses strengths interests mastery
"""
_PEOPLE = frozenset(_PEOPLE_WORDS.split())
_UTTERED_WORDS = "answer answers says said wrote writes response essay work text question draft submission message solution reply"
_UTTERED = frozenset(_UTTERED_WORDS.split())
"""Not about the learner but by the learner."""
_EMPTY = """
string|str|text|n/a|na|none|null|nil|unknown|undefined|unspecified|not specified|none given|tbd|todo|any|anything|other|random|-|--|...|…
your|subject|topic|value|example|same|same as above|as above|see above|above|as below|see below|below
"""
_PLACEHOLDERS = frozenset(_EMPTY.replace("\n", "|").split("|"))
_BRACKETS = ("{", "<", "[", "$", "%")
# letters of other scripts that look like those of our labels
_LOOKALIKES = str.maketrans("авсеіјорѕтухαβεικορτυχ", "abceijopstyxabeikoptux")
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e0fff]+"
)


def visible(text: str) -> str:
    """Return the text less the characters that nobody sees (zero-width, marks of direction): they hide no label and part no word."""
    return text if text.isascii() else _INVISIBLE.sub("", text)


def trimmed(value: str) -> str | None:
    """Return the value as a caller would show it; None where it is empty, a placeholder or too long to be a label's."""
    kept = value.strip(_MARKUP).rstrip(_TRAILING).strip()
    if not kept or len(kept) > MAX_VALUE_CHARS or kept.startswith(_BRACKETS) or kept.casefold() in _PLACEHOLDERS:
        return None
    return kept if any(character.isalnum() for character in kept) else None


def normalised(value: str) -> str:
    """Return the value as keys compare it: NFKC, case folded, spaces collapsed."""
    return " ".join(unicodedata.normalize("NFKC", value).casefold().split()).strip(_TRAILING)


def distinct(values: Iterable[str]) -> tuple[str, ...]:
    """Return the first of each normalised value, in order."""
    return tuple({normalised(value): value for value in reversed(tuple(values))}.values())[::-1]


@dataclass(slots=True)
class Labels:
    """What was read: values by wanted label, all labels, and the text without the wanted labels' values."""

    values: dict[str, list[str]] = field(default_factory=dict[str, list[str]], repr=False)
    quoted: dict[str, list[str]] = field(default_factory=dict[str, list[str]], repr=False)
    """Values that stand in a code block or quotation: they ask for nothing, but may contradict what does."""
    words: dict[str, int] = field(default_factory=dict[str, int], repr=False)
    """How many words stand behind each label, up to the next; its keys are the names of all labels."""
    rest: list[str] = field(default_factory=list[str], repr=False)
    prose: list[str] = field(default_factory=list[str], repr=False)
    """Of the rest: what stands behind no label."""
    told: list[str] = field(default_factory=list[str], repr=False)
    """Of the rest: what stands behind other labels."""
    of_people: bool = field(default=False, repr=False)
    """Whether a heading said that what follows, up to the next empty line, is about the learner: no text of its own."""
    current: str = field(default="", repr=False)
    """The label that was read last."""
    kept: int = 0
    """How many values were kept, quoted ones included."""
    fence: str = field(default="", repr=False)
    """What closes the code block or quotation that is open."""
    quoting: bool = field(default=False, repr=False)
    """Whether the line being read is quoted."""
    listing: bool = field(default=False, repr=False)
    """Whether the line before was of a list: what stands below it at the margin is a sentence of its own."""

    def are_too_many(self) -> bool:
        """Tell whether this is more than a prompt would hold."""
        return max(len(self.words), self.kept) > MAX_LABELS or len(self.rest) > 2 * MAX_LINES

    def begin_text(self) -> None:
        """Begin a text: no label and no quotation reaches over its head."""
        self.current, self.fence, self.quoting, self.of_people, self.listing = "", "", False, False, False

    def begin_line(self, line: str) -> None:
        """Tell whether the line is quoted, and open or close a block."""
        head = line.lstrip()
        fence = self.fence or next((mark for mark in _FENCES if head.startswith(mark)), "")
        self.quoting = bool(fence) or head.startswith(">")
        if fence and line.count(fence) % 2:
            self.fence = "" if self.fence else fence

    def open(self, name: str, text: str) -> None:
        """Begin the label of this name, with the text on its own line."""
        self.current = name
        self.count(text)

    def count(self, text: str) -> None:
        """Count the words of a text to the label before it; of a long line its beginning is enough."""
        self.words[self.current] = self.words.get(self.current, 0) + len(text[:_CUT_WINDOW].split())

    def keep(self, wanted: str, value: str) -> None:
        """Keep the value of a wanted label; what can't be one stays in the text."""
        kept = trimmed(value)
        if kept is None:
            self.rest.append(value)
            return
        self.kept += 1
        (self.quoted if self.quoting else self.values).setdefault(wanted, []).append(kept)
        # what follows a sentence's end is an instruction, even on a label's line
        end = _SENTENCE_END.search(value)
        self.rest.append("." if end is None else value[end.start() :])


class LabelReader:
    """Reads the wanted labels (names as the policy writes them) and their usual variants (`Topic title`, `Lesson topic`)."""

    def __init__(self, wanted: Iterable[str]) -> None:
        self.wanted = frozenset(name.casefold() for name in wanted)
        self._variants = {fold(variant): name for name in self.wanted for variant in variants(name)}
        written = sorted((variant for name in self.wanted for variant in variants(name)), key=len, reverse=True)
        names = "|".join(re.escape(name) for name in written) or "(?!)"
        self._inline = re.compile(rf"(?<![\w-])[*_]{{0,3}}({names})[*_]{{0,3}}\s?[{_COLON}]", re.IGNORECASE)
        self._tag = re.compile(rf"<\s?({names})\s?>([^<]{{1,{MAX_VALUE_CHARS}}})</", re.IGNORECASE)

    def read(self, texts: Sequence[str]) -> Labels | None:
        """Read the labels of the texts together; None: too many lines or labels."""
        labels = Labels()
        for text in texts:
            lines = text.splitlines()
            if len(lines) > MAX_LINES:
                return None
            pending: str | None = None
            labels.begin_text()
            for line in lines:
                labels.begin_line(line)
                pending = self._read_line(line, pending, labels)
                if labels.are_too_many():
                    return None
        return labels

    def _read_line(self, line: str, pending: str | None, labels: Labels) -> str | None:
        """Read one line; return the label whose value should stand on the next."""
        if not line.strip():
            labels.rest.append(".")
            labels.of_people = False
            return pending
        if pending is not None and not _BULLET.match(line) and _HEAD.match(line) is None:
            labels.keep(pending, line)
            return None
        head = None if line.lstrip().startswith(('"', "{", "'")) else _HEAD.match(line)
        if head is None:
            labels.count(line)
        else:
            name = _name(head[1])
            labels.open(name, line[head.end() :])
            wanted = self._wanted(name)
            if wanted is not None:
                return self._read_value(wanted, line[head.end() :], labels)
        return self._read_other(line, head, labels)

    def _read_other(self, line: str, head: re.Match[str] | None, labels: Labels) -> str | None:
        """Read a line that begins with no wanted label."""
        low = line.casefold()
        if any(name in low for name in self.wanted):
            return self._read_mention(line, labels)
        if head is not None and len(head[1].split()) <= _NAME_WORDS:
            # a label's line ends the sentence before it
            labels.rest.append(f". {line}")
            if not labels.of_people and not _is_of_people(head[1]):
                labels.told.append(line[head.end() :])
            labels.of_people = labels.of_people or (not line[head.end() :].strip() and _is_of_people(head[1]))
            return None
        self._keep_prose(line, labels)
        title = _TITLE.match(line)
        if title is not None:
            labels.words.setdefault(_name(title[1]), 0)
        return None

    def _keep_prose(self, line: str, labels: Labels) -> None:
        is_item, is_below = _BULLET.match(line) is not None, not line[:1].isspace()
        labels.rest.append(f". {line}" if labels.listing and is_below and not is_item else line)
        labels.listing = is_item or (labels.listing and not is_below)
        if line.rstrip().endswith(tuple(_COLON)) and _is_of_people(line):
            labels.of_people = True
        if not labels.of_people:
            labels.prose.append(line)

    def _wanted(self, name: str) -> str | None:
        folded = fold(name.partition("(")[0])
        return self._variants.get(folded) or self._variants.get(folded.rstrip("0123456789"))

    def _read_value(self, wanted: str, text: str, labels: Labels) -> str | None:
        for _ in range(MAX_LABELS):
            cut = self._value_end(text)
            value, tail = text[:cut], text[cut:].lstrip(" \t,;|")
            if not value.strip(_MARKUP):
                return None if tail else wanted
            labels.keep(wanted, value)
            head = _HEAD.match(tail)
            if head is None:
                return None
            name = _name(head[1])
            labels.open(name, tail[head.end() :])
            following, end = self._wanted(name), head.end()
            if following is None:
                inline = self._inline.search(tail)
                labels.rest.append(tail if inline is None else tail[: inline.start()])
                if inline is None:
                    return None
                following, end = self._variants[fold(inline[1])], inline.end()
            wanted, text = following, tail[end:]
        return None

    def _value_end(self, text: str) -> int:
        """Return where the value ends: at the next label of the line."""
        found = (_NEXT.search(text, 0, _CUT_WINDOW), self._inline.search(text, 0, _CUT_WINDOW))
        return min((cut.start() for cut in found if cut is not None), default=len(text))

    def _read_mention(self, line: str, labels: Labels) -> str | None:
        """Read a line that names a wanted label elsewhere than before a colon at its head."""
        tags = list(self._tag.finditer(line))
        if tags:
            for tag in tags:
                labels.keep(self._variants[fold(tag[1])], tag[2])
            self._keep_prose(self._tag.sub("<", line), labels)
            return None
        inline = self._inline.search(line)
        if inline is not None:
            self._keep_prose(line[: inline.start()], labels)
            return self._read_value(self._variants[fold(inline[1])], line[inline.end() :], labels)
        dashed = _DASHED.match(line)
        wanted = None if dashed is None else self._wanted(_name(dashed[1]))
        if dashed is not None and wanted is not None:
            return self._read_value(wanted, line[dashed.end() :], labels)
        self._keep_prose(line, labels)
        title = _TITLE.match(line)
        return None if title is None else self._wanted(_name(title[1]))


def _is_of_people(text: str) -> bool:
    """Tell whether a label or heading speaks of those who are taught."""
    words = _LETTERS.findall(text[:_CUT_WINDOW].casefold())
    return not _PEOPLE.isdisjoint(words) and _UTTERED.isdisjoint(words)


def variants(name: str) -> list[str]:
    """Return the usual ways to write a label or key: `topic`, `topic title`, `lesson topic` and so on."""
    return [name, *(f"{before} {name}" for before in _BEFORE), *(f"{name} {after}" for after in _AFTER)]


def _name(raw: str) -> str:
    name = " ".join(raw.strip(_MARKUP + ")(").replace("_", " ").casefold().split())
    return name if name.isascii() else unicodedata.normalize("NFKC", name).casefold().translate(_LOOKALIKES)
