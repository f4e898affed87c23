"""Writes plausible prose that mentions given words, from a seed; knows nothing of requests or schemas."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

_SENTENCES = (
    "A first look at {} shows how {} and {} belong together.",
    "In class, {} is best explained through {}, and then through {}.",
    "Take {} as an example, compare it with {}, and note what {} adds.",
    "Many learners mix up {} and {}, so say aloud what {} means.",
    "Once {} is clear, the step from {} to {} is a small one.",
    "Write down what you know of {}, then ask how {} follows from {}.",
    "The usual mistake is to forget {} when {} meets {}.",
    "To check yourself, explain {} in one sentence, using {} and {}.",
    "Think of {} as a tool that turns {} into {}.",
    "Before going on, solve one task about {} with the help of {} and {}.",
    "Here {} matters most, because {} would not work without {}.",
    "What we call {} was found by people who studied {} and {}.",
)
_TITLES = (
    "A first look at",
    "Understanding",
    "How to use",
    "The idea behind",
    "Practising",
    "A closer look at",
    "Steps towards",
    "Notes on",
)
_PLAIN = (
    "practice", "example", "idea", "rule", "question", "method", "picture", "result", "step", "reason", "pattern", "detail",
)  # fmt: skip
_SENTENCES_A_PARAGRAPH = 4


class Prose:
    """Sentences about `subject` and `words`, which come in their order, again from the start when they are used up.

    Two of the same words with different generators differ from the first sentence on.
    """

    def __init__(self, subject: str, words: Sequence[str], chance: random.Random) -> None:
        self._chance = chance
        self._words: Iterator[str] = itertools.cycle(words or _PLAIN)
        self._subject = subject or chance.choice(_PLAIN)

    def edition(self) -> str:
        """Return a short mark that tells this text from others about the same words."""
        return f"{self._chance.getrandbits(24):06x}"

    def _sentence(self) -> str:
        words = self._words
        return self._chance.choice(_SENTENCES).format(next(words), next(words), next(words))

    def few(self) -> str:
        """Return a few words, as a choice or a keyword would be."""
        return f"{next(self._words)} {self._chance.choice(_PLAIN)} {self.edition()}"

    def phrase(self) -> str:
        """Return a title."""
        return f"{self._chance.choice(_TITLES)} {self._subject} ({self.edition()})"

    def text(self, length_words: int) -> str:
        """Return sentences of at least `length_words` words in one paragraph; the first one names the subject."""
        first = f"{self._subject}, edition {self.edition()}."
        sentences, length = [first[:1].upper() + first[1:]], first.count(" ") + 1
        while length < length_words:
            sentences.append(self._sentence())
            length += sentences[-1].count(" ") + 1
        return " ".join(sentences)

    def paragraphs(self, length_words: int) -> str:
        """Return the same in paragraphs of four sentences."""
        sentences = self.text(length_words).split(". ")
        groups = (sentences[i : i + _SENTENCES_A_PARAGRAPH] for i in range(0, len(sentences), _SENTENCES_A_PARAGRAPH))
        return ".\n\n".join(". ".join(group) for group in groups)
