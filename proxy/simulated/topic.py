"""What a piece of prompt is about: its words, its `Label: value` lines, and the sections behind given names.

It reads text alone and knows no application's wording.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from proxy.simulated.shape import braces_in

_MOST_WORDS = 200
_MOST_CHARS = 20_000
_LONGEST_WORD = 40
_SHORTEST_WORD = 3
_LONGEST_TOPIC = 60
_FEW = 3
_SAYS_NOTHING = frozenset({
    "the", "and", "for", "with", "from", "that", "this", "are", "you", "your", "not", "all", "any", "each", "one", "into", "about",
    "its", "their", "has", "have",
})  # fmt: skip
_WORD = re.compile(r"[^\W_][\w'-]*")
_NAME = re.compile(r"(?=.*[^\W\d_])(?=.*[\d-]).+")
_LABEL = re.compile(r"^[ \t>*#-]*([^\W\d_][\w ]{0,30}?)[*_]{0,2}[ \t]*[:=][*_]{0,2}[ \t]*(\S[^\n]{0,120})$", re.MULTILINE)
_RANKED = 1_000
_LINE_START = 40
_TOGETHER = re.compile(r"[ \t]*(?:,|;|/|&|\band\b|\bor\b)[ \t]*(?:and\b|or\b)?[ \t]*")


@dataclass(frozen=True, slots=True)
class Topic:
    """What one answer should be about."""

    text: str = field(default="", repr=False)
    words: tuple[str, ...] = field(default=(), repr=False)
    """The most telling first, without repeats."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Lower-case label with `_` for blanks → its value; of a repeated label the last."""

    @property
    def subject(self) -> str:
        """Return it in a few words: what a label calls the topic, and the most telling words."""
        topic = self.labels.get("topic", "")[:_LONGEST_TOPIC]
        return ", ".join(filter(None, (topic, " ".join(self.words[: _FEW if topic else 2 * _FEW]))))

    def place(self, word: str) -> int:
        """Return where `word` stands in the text as a whole word, in any case, or -1."""
        return place(self.text, word)


def place(text: str, word: str) -> int:
    """Return where `word` first stands in `text` as a whole word, in any case, or -1."""
    found = re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text, re.IGNORECASE) if word else None
    return found.start() if found else -1


def topic_of(text: str, *, rest: str = "", siblings: str = "") -> Topic:
    """Return what `text` is about, and then what `rest` says for it and its `siblings` together.

    Words of its own come before those that siblings have too, these before the rest's. Words of letters with digits or
    hyphens are taken for names and come before others, values of labels before running text; the shortest say nothing.
    """
    text, rest, siblings = text[:_MOST_CHARS], rest[:_MOST_CHARS], siblings[:_MOST_CHARS]
    labels = _labels(rest) | _labels(text)
    valued = set(_WORD.findall(" ".join(labels.values())))
    shared = set(_WORD.findall(siblings))
    own = dict.fromkeys(_WORD.findall(text))
    words = own | dict.fromkeys(_WORD.findall(rest))
    fit = (w for w in words if _SHORTEST_WORD <= len(w) <= _LONGEST_WORD and w.lower() not in labels and w.lower() not in _SAYS_NOTHING)
    ordered = sorted(fit, key=lambda w: (w not in own, w in shared, _NAME.fullmatch(w) is None, w not in valued))
    return Topic(f"{text}\n{rest}" if rest else text, tuple(ordered[:_MOST_WORDS]), labels)


def _labels(text: str) -> dict[str, str]:
    return {label.strip().lower().replace(" ", "_"): value.strip("*_ \t\r") for label, value in _LABEL.findall(text)}


def _any_of(names: Sequence[str]) -> re.Pattern[str]:
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])")


def all_named(text: str, names: Sequence[str]) -> bool:
    """Tell whether every name stands in `text` as a whole word."""
    return bool(names) and all(names) and set(names) == set(_any_of(names).findall(text))


def topics_by_name(text: str, names: Sequence[str], *, before: str = "") -> dict[str, Topic]:
    """Return for each name what the text from it up to the next of the names is about.

    A name that stands several times (in a list of all names, say) counts where it opens a line and words follow; else
    at its first place with words behind it. Names that stand together (`k1, k2:`) share what follows. What lies in no
    section, and what stands `before` the text, is common to all.
    """
    spans = _sections(text, names)
    edges = sorted(set(spans.values()))
    gaps = zip([0, *(end for _, end in edges)], [*(start for start, _ in edges), len(text)], strict=True)
    rest = "\n".join([before, *(text[start:end] for start, end in gaps)])
    parts = {name: text[slice(*spans[name])] if name in spans else "" for name in names}
    return {
        name: topic_of(parts[name], rest=rest, siblings="\n".join(part for other, part in parts.items() if other != name)) for name in names
    }


def _sections(text: str, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    found = list(_any_of(names).finditer(text)) if names else []
    braces = list(braces_in(text))
    ranks: dict[str, int] = {}
    spans: dict[str, tuple[int, int]] = {}
    group: list[re.Match[str]] = []
    for i, match in enumerate(found):
        group.append(match)
        following = found[i + 1].start() if i + 1 < len(found) else len(text)
        if i + 1 < len(found) and _TOGETHER.fullmatch(text, match.end(), following):
            continue
        # what stands in braces ends with them: `{"k1": LESSON, "k2": LESSON}` is a form, and what follows is not about k2
        inside = braces[max(0, bisect_right(braces, (match.start(), len(text))) - 1)] if braces else (0, 0)
        end = min(following, inside[1]) if inside[0] < match.start() < inside[1] else following
        rank = _rank(text, group[0].start(), (match.end(), end))
        for name in (one.group() for one in group):
            if rank > ranks.get(name, 0):
                ranks[name], spans[name] = rank, (match.end(), end)
        group = []
    return spans


def _rank(text: str, opens: int, section: tuple[int, int]) -> int:
    """Tell how much the text behind a name looks like its section; 0: not at all."""
    words = len(_WORD.findall(text[slice(*section)][:_RANKED]))
    first_in_line = not _WORD.search(text[max(0, opens - _LINE_START) : opens].rpartition("\n")[2])
    return min(words, 2) * 2 + first_in_line if words else 0
