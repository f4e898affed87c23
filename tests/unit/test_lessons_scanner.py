"""The push scanner finds keyed entries however JSON is wrapped, broken and cut, in time linear in the text."""

from __future__ import annotations

import itertools
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.lessons.literals import decode, joined, mend, unquoted, unquoted_so_far
from proxy.lessons.scanner import MAX_FRAMES, Entry, Scanner

KEYS = frozenset({"k7a", "q2b"})


def scan(*deltas: str) -> list[Entry]:
    scanner = Scanner(KEYS)
    return [entry for delta in deltas for entry in scanner.feed(delta)] + scanner.finish()


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("", []),
        ('no JSON at all, but } and ] and "', []),
        ('{"k7a": 1}', [Entry("k7a", ("1",))]),
        ('{"k7a": -1.5e+3 , "q2b":null}', [Entry("k7a", ("-1.5e+3",)), Entry("q2b", ("null",))]),
        ('{"K7A": 1, "k7a ": 2}', []),
        ('{"\\u006b7a": {}}', [Entry("k7a", ("{}",))]),
        ('{"lessons": {"zzz": 1}}', [Entry("zzz", ("1",))]),
        ('{"notes": {"k7a": 1}}', []),
        ('{"properties": {"lessons": {"properties": {"k7a": {}}}}}', []),
        ('[{"key": "zzz", "lesson": {}}]', [Entry("zzz", ("{}",))]),
        ('[{"title": "no key"}]', [Entry("", ('{"title":"no key"}',))]),
        ('[{"key": "k7a", "lesson": 1, "n": 2}]', [Entry("k7a", ("1", '{"lesson":1,"n":2}'))]),
        ('[{"key": "k7a"}]', [Entry("k7a", (), "ambiguous")]),
        ('[{"key": "k7a", "key": "q2b", "lesson": 1}]', [Entry("k7a", ("1",), "ambiguous")]),
        ('[{"lessons": [1], "key": "k7a", "n": 2}]', [Entry("k7a", (), "ambiguous")]),
        ('{"key": "zzz", "lesson": 1}', []),
    ],
)
def test_entries_of_a_text(text: str, entries: list[Entry]) -> None:
    assert scan(text) == entries


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ('{"k7a": {"a": "b', [Entry("k7a", ('{"a": "b',), "cut_off")]),
        ('{"k7a": "closed"', [Entry("k7a", ('"closed"',), "cut_off")]),
        ('{"k7a": 12', [Entry("k7a", ("12",), "cut_off")]),
        ('[{"key": "k7a", "lesson": {"a', [Entry("k7a", ('{"a',), "cut_off")]),
        ('{"key": "k7a", "lesson": "a', [Entry("k7a", ('"a',), "cut_off")]),
        ('{"lessons": "{\\"k7a\\": {}, \\"q2b\\": [1', [Entry("k7a", ("{}",)), Entry("q2b", ("[1",), "cut_off")]),
        ('{"k7', []),
    ],
)
def test_what_is_cut_off_is_told(text: str, entries: list[Entry]) -> None:
    assert scan(text) == entries


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ('{1, 2} {"k7a": 1}', [Entry("k7a", ("1",))]),
        ('[see note 3: {"k7a": 1}', [Entry("k7a", ("1",))]),
        ('{ 6" } {"k7a": 1}', [Entry("k7a", ("1",))]),
        ('{{"k7a": 1}}', [Entry("k7a", ("1",))]),
        ('"Sure: {"lessons": {"k7a": 1}}', [Entry("k7a", ("1",))]),
        ('{"k7a": "He said "hi" to all"} {"q2b": 1}', [Entry("k7a", ('"He said "',), "not_json"), Entry("q2b", ("1",))]),
        ('{"k7a": "one", "two" , "q2b": 1}', [Entry("k7a", ('"one"',), "not_json")]),
        ('{"k7a" {}} {"k7a": {}}', [Entry("k7a", ("{}",))]),
        ('{"k7a": } {"k7a": 2}', [Entry("k7a", ("2",))]),
        ('[1 2] {"k7a": 2}', [Entry("k7a", ("2",))]),
    ],
)
def test_the_search_goes_on_behind_what_is_broken(text: str, entries: list[Entry]) -> None:
    assert scan(text) == entries


@given(st.text(st.sampled_from('{}[]":,\\ ak'), max_size=60), st.lists(st.integers(0, 60), max_size=8))
def test_cutting_changes_nothing(text: str, cuts: list[int]) -> None:
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    assert scan(*(text[start:end] for start, end in itertools.pairwise(places))) == scan(text)


def test_wrappers_are_bounded() -> None:
    """Deeper than its bound the scanner only reads over, and nesting costs no stack."""
    deep = '{"lessons":' * MAX_FRAMES + '{"k7a":1}' + "}" * MAX_FRAMES
    assert scan(deep) == []
    assert scan(deep[len('{"lessons":') : -1]) == [Entry("k7a", ("1",))]
    assert scan("[" * 100_000 + "]" * 100_000 + '{"k7a":1}') == [Entry("k7a", ("1",))]


NASTY = {
    "spaces": ' {"lessons": ' + " " * 400_000,
    "brackets": "[" * 400_000,
    "braces": "{" * 60_000,
    "names": '{"' * 60_000,
    "backslashes": '{"k7a":"' + "\\" * 400_000,
    "elements": '[{"key":' * 60_000,
    "members": '{"key":"x",' + '"a":1,' * 30_000 + '"lessons":1,' * 30_000,
    "keys": '{"lessons":{' + '"key":"x",' * 60_000,
    "documents": "{} [] " * 40_000,
}


@pytest.mark.parametrize("name", NASTY)
def test_time_is_linear_in_the_text(name: str) -> None:
    """Four times the text takes not much more than four times the time, even one character at a time."""

    def seconds(text: str) -> float:
        began = process_time()
        scan(*text)
        return process_time() - began

    text = NASTY[name][:120_000]
    # one good pair of several is enough: a shared machine's speed changes between any two measurements
    assert any(seconds(text) < 8 * seconds(text[: len(text) // 4]) for _ in range(5))


def test_literals() -> None:
    """Surrogate halves that came apart are joined; what is torn or not strict is not made up."""
    assert decode('"\ud83d\ude00"') == mend("\ud83d\ude00") == "\U0001f600"
    assert mend("\ud83d") == "\ud83d"
    for bad in ("NaN", "Infinity", '"\\ud800"', '"\ud800"', "1e999", "{'a': 1}", '"a\nb"', "[1,]", "", "[" * 2000 + "]" * 2000):
        with pytest.raises(ValueError, match=r"."):
            decode(bad)
    assert unquoted("12") == unquoted('"torn') == ""
    assert unquoted_so_far('"a\\n\\u00e9 and \\ud83d') == "a\n\u00e9 and "
    assert unquoted_so_far('"a\\') == "a"
    assert joined([('a"', "1"), ("\ud83d", "[ ]")]) == '{"a\\"":1,"\ud83d":[ ]}'
