"""Tokens are counted offline, for any text, in bounded time."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.upstream.tokens import TiktokenTokens

TOKENS = TiktokenTokens()


def test_plain_words_count_as_the_table_says() -> None:
    """A short text's count is tiktoken's own."""
    text = "Photosynthesis turns light into sugar. " * 20
    assert TOKENS.count(text) == len(tiktoken.get_encoding("cl100k_base").encode_ordinary(text))
    assert TOKENS.count("") == 0


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb" * 50, "<|endoftext|>", "<|im_start|>system", "\x00", "字" * 9])
def test_odd_texts_have_a_count(text: str) -> None:
    """Lone surrogates and special tokens are text like any other."""
    assert TOKENS.count(text) > 0


@pytest.mark.parametrize("unit", [" ", "a", "\n", ".", "a1", "字", "<|endoftext|>", "\ud800"])
def test_a_million_characters_are_counted_in_bounded_time(unit: str) -> None:
    """Runs that overflow the tokenizer's stack or go quadratic come through; what is sampled is scaled up."""
    text = unit * (1_000_000 // len(unit))
    started = time.perf_counter()
    count = TOKENS.count(text)
    assert time.perf_counter() - started < 1.5
    part = TOKENS.count(text[:200_000])
    assert count == pytest.approx(part * len(text) / 200_000, rel=0.05)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(), max_size=300))
def test_any_text_has_a_count(text: str) -> None:
    """Total, and never more tokens than bytes."""
    assert 0 <= TOKENS.count(text) <= len(text.encode("utf-8", "surrogatepass")) + 2


def test_counting_needs_no_litellm() -> None:
    """The tables are found without the seconds that litellm's import takes."""
    program = (
        "import sys; from proxy.upstream.tokens import TiktokenTokens; from proxy.upstream import config, deployments, direct;"
        "assert TiktokenTokens().count('hello world') == 2; assert 'litellm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
