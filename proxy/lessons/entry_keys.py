"""Names that callers' lessons go by in one batch: short, opaque, and found in no caller's text; it knows nothing else of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import blake2b

from proxy.lessons.unfit import UnfitError

# rare pairs without a vowel: no word and no unit, seldom inside a word, and one token each in the common vocabularies
_PAIRS = re.findall(
    "..",
    "bjbkbvbwbxbzcjckcqcvcwcxczdjdqdwdxdzfkfqfvfwfxgvgwgxgzhkhvhwhxjbjdjmjqjsjtkckdkhknkpkrksktmjmqmvmwmxnjnknvnwnxnz"
    "pjpkpqpvpxqbqcqpqrqsqtqwrkrqrvrwrzsjsksqsvswsxsztktwtzvbvcvdvfvgvhvkvmvnvpvtvwvxwbwdwfwgwhwkwmwnwpwrwswtwx"
    "xbxcxdxfxmxnxpxrxsxtzbzdzhzkzmznzszwzx",
)
_DIGITS = (2, 4, 8, 12)
_TRIES = 200


def entry_keys(count: int, texts: str, seed: str) -> tuple[str, ...]:
    """Return `count` keys of equal length that differ, and that `texts` holds in no case (case is ignored).

    The same arguments give the same keys. UnfitError("keys") where the texts hold too many of the candidates.
    """
    taken = texts.lower()
    for candidates in _lengths(count, seed):
        free: list[str] = []
        for key in candidates:
            if len(free) < count and key not in free and key not in taken:
                free.append(key)
        if len(free) == count:
            return tuple(free)
    raise UnfitError("keys")


def _lengths(count: int, seed: str) -> Iterator[list[str]]:
    """Yield candidates of one length after the other, in an order that only the seed decides."""
    yield sorted(_PAIRS, key=lambda pair: _drawn(seed, pair))
    for digits in _DIGITS:
        drawn = (_drawn(seed, f"{digits}.{number}") for number in range(_TRIES + 2 * count))
        yield [f"{'bdfhkmprtvxz'[number % 12]}{number // 12 % 10**digits:0{digits}}" for number in drawn]


def _drawn(seed: str, name: str) -> int:
    return int.from_bytes(blake2b(f"{seed}.{name}".encode(errors="surrogatepass"), digest_size=8).digest())
