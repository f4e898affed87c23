"""Texts as words: what is a word, and where sentences end, in any script."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.lessons.words import STOP, is_unspaced, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Write one LESSON... now!", ["write", "one", "lesson", STOP, "now", STOP]),
        ("snake_case-name's", ["snake", "case", "name", "s"]),
        ("कक्षा 7 के लिए पाठ। ठीक है", ["कक्षा", "7", "के", "लिए", "पाठ", STOP, "ठीक", "है"]),
        ("Cafe\u0301 İstanbul_x", ["café", "i\u0307stanbul", "x"]),
        ("مُدَرِّس؟ نعم", ["مُدَرِّس", STOP, "نعم"]),
        ("写一节课。。。好！", ["写一节课", STOP, "好", STOP]),  # noqa: RUF001
    ],
)
def test_words_are_whole_in_every_script(text: str, words: list[str]) -> None:
    """Vowel signs and accents part no word; every script's own marks end its sentences, once."""
    assert words_of(text) == words


@given(st.text(max_size=60))
def test_any_text_has_words(text: str) -> None:
    """Never a space, a capital or an empty word; a text with a letter has at least one."""
    words = words_of(text)
    assert all(word and word == word.casefold() and not any(map(str.isspace, word)) for word in words)
    assert words or not any("a" <= character.casefold() <= "z" for character in text)


def test_scripts_without_spaces_are_known() -> None:
    assert [is_unspaced(text) for text in ("写一节课", "บทเรียน", "မြန်မာ", "ខ្មែរ", "पाठ", "урок", "lesson")] == [True] * 4 + [False] * 3
