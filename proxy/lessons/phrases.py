"""Finds the phrases of rules in a prompt, in time linear in the prompt; it knows words, not what they mean for a lesson.

A phrase is literal (`quiz only`, `translat*`) or spans a gap (`check ... lesson`, `create ~ lesson`, `create -> lesson`,
`{n} ... lessons`); the head of `rules.yaml` tells the notation. Words of scripts without spaces are found as substrings.
`{prose}` and `{question}` stand for what is no phrase; whoever reads the prompt adds them to what was found.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from proxy.lessons.words import STOP, is_unspaced, words_of

_STEM = 4
_GAP_WORDS = 5
_PAIR = 2
_MANY_WORDS = 2_000
_REMEMBERED_TEXTS = 256
_REMEMBERED_CHARS = 16_000
PROSE = "{prose}"
"""The prompt brings a text of its own."""
QUESTION = "{question}"
"""The prompt asks a question."""
_SIGNS = frozenset({PROSE, QUESTION})
_GAPS = frozenset({"...", "~", "->"})

# A phrase with `~` is a verb (or number) and its object: these words show that the last word is not that object.
_BETWEEN = """
of for about on from in to with without after before into by using via this that these those your my our their his her its
s each every per above below previous next existing following year years experience grade grades
de del della delle dell da di du des d para por pour sobre sur per su sul für zu zur zum über aus von der dieser
diese dieses esta este cette ce questa questo voor over van deze för till om av denna для о об из этого этот этой
про цього цей dla ten tej pro untuk tentang dari dengan pada ini
"""  # noqa: RUF001 - Russian words
_MANY = """
two three four five six seven eight nine ten eleven twelve twenty several multiple many various few couple different series
set batch dos tres cuatro cinco varias varios deux trois quatre cinq plusieurs zwei drei vier fünf mehrere due tre
quattro cinque diverse duas três várias vários iki üç dört beş birkaç два две три четыре пять несколько
дві чотири кілька twee drie vier vijf enkele dwa dwie trzy cztery pięć kilka dvě tři čtyři pět několik två tre fyra fem flera
dua tiga empat lima beberapa
"""
# A phrase with `->` asks for its object: these words ahead of the verb show that nobody is asked,
_NOT_ASKING = """
how when whenever why what whether before until while not t never no without cannot nor rather than tips advice ways
teachers people users they he she we who better worth
"""
# and these behind the object that it is a part or companion of the object which is asked for.
_PARTS = """
objective objectives goal goals slide slides tag tags title titles name names intro introduction feedback summary summaries quiz
quizzes question questions filter finder search query outline outlines idea ideas report review form schedule booking record row
entry card cards cover image description metadata keywords request requests reminder log notes plans resources worksheet
worksheets handout song homework assignment exam test rubric hook conclusion evaluation observation checklist calendar list series
sequence page price fee app platform website suggestions recommendations topics topic script video poster invitation
"""
# A number of lessons in a time ("three lessons of mathematics a week") is how a learner lives, unless a verb asks for them.
_TIMES = frozenset({"day", "week", "month", "term", "year"})
_PER = frozenset({"a", "per", "each", "every"})
_WRITING_WORDS = "write create make generate produce prepare design build plan give need want provide send"
_WRITING = frozenset(_WRITING_WORDS.split())
_FREQUENCY_WORDS = 5
_ASKING_WORDS = 4
_MANY_BEFORE = 20
_NO_REQUEST = frozenset(_NOT_ASKING.split())
_ONLY_A_PART = frozenset(_PARTS.split())
_BETWEEN_OBJECTS = frozenset(_BETWEEN.split())
_SEVERAL = frozenset(_MANY.split())


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    prefix: bool

    def fits(self, word: str) -> bool:
        return word.startswith(self.text) if self.prefix else word == self.text


@dataclass(frozen=True, slots=True)
class _Literal:
    phrase: str
    whole: frozenset[str]
    """The words that must all be there: a test far cheaper than the search."""
    pairs: frozenset[tuple[str, str]]
    """Those that must stand side by side."""
    needle: str
    """Empty: one whole word, for which the first test is enough."""
    is_pair: bool
    """Two whole words, for which the second test is enough."""


@dataclass(frozen=True, slots=True)
class _Gapped:
    phrase: str
    head: _Word | None
    """None: `{n}`."""
    clean: bool
    """`~` and `->`: no preposition or pointing word between."""
    asks: bool
    """`->`: and it is asked for."""
    last: _Word


def _is_number(word: str) -> bool:
    return word in _SEVERAL or (word.isdecimal() and word.lstrip("0") not in {"", "1"})


def _word(phrase: str, token: str) -> _Word:
    words = words_of(token)
    prefix = token.endswith("*")
    if len(words) != 1 or words[0] == STOP or (prefix and len(words[0]) < _STEM):
        raise ValueError(f"phrase {phrase!r}: {token!r} must be one word, with four letters or more before a `*`")
    return _Word(words[0], prefix)


class PhraseSet:
    """All phrases of a policy, compiled once; raises ValueError for one that can't be read."""

    def __init__(self, phrases: Iterable[str]) -> None:
        self._literal: dict[str, list[_Literal]] = {}
        self._unspaced: list[tuple[str, str]] = []
        self._gapped: dict[str, list[_Gapped]] = {}
        for phrase in sorted(set(phrases) - _SIGNS):
            self._add(phrase)
        self._remembered = lru_cache(maxsize=_REMEMBERED_TEXTS)(self._find)

    def _add(self, phrase: str) -> None:
        tokens = phrase.split()
        gaps = [token for token in tokens if token in _GAPS]
        if gaps:
            self._add_gapped(phrase, tokens)
        elif is_unspaced(phrase):
            self._unspaced.append(("".join(tokens).casefold(), phrase))
        else:
            self._add_literal(phrase)

    def _add_gapped(self, phrase: str, tokens: list[str]) -> None:
        match tokens:
            case [first, ("..." | "~" | "->") as gap, last]:
                head = None if first == "{n}" else _word(phrase, first)
                entry = _Gapped(phrase, head, gap != "...", gap == "->", _word(phrase, last))
                self._gapped.setdefault(entry.last.text[:_STEM], []).append(entry)
            case _:
                raise ValueError(f"phrase {phrase!r}: a gap stands between exactly one word before and one after it")

    def _add_literal(self, phrase: str) -> None:
        words = words_of(phrase)
        prefix = phrase.rstrip().endswith("*")
        if not words or words == [STOP] or (prefix and len(words[-1]) < _STEM):
            raise ValueError(f"phrase {phrase!r} needs a word, with four letters or more before a `*`")
        needle = f" {' '.join(words)}" + ("" if prefix else " ")
        whole = words[:-1] if prefix else words
        needle = needle if prefix or len(words) > 1 else ""
        literal = _Literal(phrase, frozenset(whole), frozenset(pairwise(whole)), needle, is_pair=len(whole) == _PAIR and not prefix)
        self._literal.setdefault(words[0][:_STEM], []).append(literal)

    def found_in(self, text: str) -> frozenset[str]:
        """Return the phrases that stand in the text."""
        return self._find(text)

    def found_in_shared(self, text: str) -> frozenset[str]:
        """Return the same for a text that many calls have in common (a system text); the last few are remembered."""
        return self._find(text) if len(text) > _REMEMBERED_CHARS else self._remembered(text)

    def _find(self, text: str) -> frozenset[str]:
        words = words_of(text)
        unique = set(words)
        found = self._find_literal(words, unique)
        if is_unspaced(text):
            flat = "".join(words)
            found.update(phrase for needle, phrase in self._unspaced if needle in flat)
        self._find_gapped(words, unique, found)
        return frozenset(found)

    def _find_gapped(self, words: list[str], unique: set[str], found: set[str]) -> None:
        ends: dict[str, tuple[_Beginnings, list[int]]] = {}
        for word in unique:
            endings = [entry for entry in self._gapped.get(word[:_STEM], ()) if entry.last.fits(word)]
            if endings:
                ends[word] = (_Beginnings(endings), [])
        for position, word in enumerate(words if ends else ()):
            if word in ends:
                ends[word][1].append(position)
        for begins, positions in ends.values():
            _find_between(words, positions, begins, found)

    def _find_literal(self, words: list[str], unique: set[str]) -> set[str]:
        flat = f" {' '.join(words)} "
        # in a long text every word may stand somewhere: there, neighbours are the cheap test
        neighbours = set(pairwise(words)) if len(words) > _MANY_WORDS else None
        found = set[str]()
        for stem in {word[:_STEM] for word in unique} & self._literal.keys():
            for literal in self._literal[stem]:
                near = neighbours is None or literal.pairs <= neighbours
                if near and literal.whole <= unique and ((literal.is_pair and neighbours) or literal.needle in flat):
                    found.add(literal.phrase)
        return found


def _find_between(words: list[str], positions: list[int], begins: _Beginnings, found: set[str]) -> None:
    """Look back from each place of the last word, over the few words that a gap allows, for the phrases' first words."""
    for position in positions:
        clean = True
        for at in range(position - 1, max(position - _GAP_WORDS - 2, -1), -1):
            if words[at] == STOP:
                break
            for entry in begins[words[at]]:
                if entry.phrase not in found and (clean or not entry.clean) and not _is_meant_otherwise(entry, words, at, position):
                    found.add(entry.phrase)
            clean = clean and words[at] not in _BETWEEN_OBJECTS


def _is_meant_otherwise(entry: _Gapped, words: list[str], first: int, last: int) -> bool:
    return (entry.asks and _is_no_request(words, first, last)) or (entry.head is None and _is_frequency(words, first, last))


def _is_frequency(words: list[str], first: int, last: int) -> bool:
    """Tell whether a number of lessons is so many in a time, and none of them is asked for."""
    behind = words[last + 1 : last + 1 + _FREQUENCY_WORDS]
    if not any(word in _PER and time in _TIMES for word, time in pairwise(behind[: behind.index(STOP)] if STOP in behind else behind)):
        return False
    before = words[max(first - _MANY_BEFORE, 0) : first]
    since = len(before) - before[::-1].index(STOP) if STOP in before else 0
    return _WRITING.isdisjoint(before[since:])


def _is_no_request(words: list[str], first: int, last: int) -> bool:
    """Tell whether a verb and its object ask for nothing, or for a part of the object."""
    if last + 1 < len(words) and words[last + 1] in _ONLY_A_PART:
        return True
    before = words[max(first - _ASKING_WORDS, 0) : first]
    since = len(before) - before[::-1].index(STOP) if STOP in before else 0
    return not _NO_REQUEST.isdisjoint(before[since:])


class _Beginnings(dict[str, tuple[_Gapped, ...]]):
    """The phrases that begin with a word; each word is looked at once, however often it stands in the text."""

    def __init__(self, endings: list[_Gapped]) -> None:
        super().__init__()
        self._numbered = tuple(entry for entry in endings if entry.head is None)
        self._by_stem: dict[str, list[_Gapped]] = {}
        for entry in endings:
            if entry.head is not None:
                self._by_stem.setdefault(entry.head.text[:_STEM], []).append(entry)

    def __missing__(self, word: str) -> tuple[_Gapped, ...]:
        named = [entry for entry in self._by_stem.get(word[:_STEM], ()) if entry.head and entry.head.fits(word)]
        self[word] = tuple(named) + (self._numbered if self._numbered and _is_number(word) else ())
        return self[word]
