"""Composes the answers to one understood request, honest or as its fault says; knows no HTTP and no clock."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import orjson

from proxy.simulated.answer import Answer
from proxy.simulated.asked import Asked
from proxy.simulated.entries import Entries
from proxy.simulated.lies import ENTRY_LIES, TEXT_LIES, VALUE_LIES, frame
from proxy.simulated.prose import Prose
from proxy.simulated.schema import Json, type_of
from proxy.simulated.tokens import Tokenizer
from proxy.simulated.topic import Topic, all_named, topic_of, topics_by_name
from proxy.simulated.writer import Writer

_SHORT_WORDS = 3
_ENDLESS_WORDS = 2_000
_THOUGHTS = 'The user wants {"lessons": ...}. Each of them is for a learner of its own, so I must not mix them up.'
"""Beside the answer; the brace in it is no part of one."""


class Composer:
    """Writes the answers of one request from `seed`; the same request and seed give the same answers."""

    def __init__(self, asked: Asked, seed: str, content_words: int, tokens: Tokenizer) -> None:
        self._asked = asked
        self._seed = seed
        self._content_words = content_words
        self._tokens = tokens
        self._fault = asked.fault.name if asked.fault else ""

    def compose(self) -> list[Answer]:
        """Return one answer a choice; none where the fault is that there are none."""
        if self._fault == "no_choices":
            return []
        return [self._finished(self._choice(f"{self._seed}/{i}")) for i in range(self._asked.choices)]

    def _choice(self, seed: str) -> Answer:
        asked = self._asked
        if asked.form.schema is None or self._fault == "prose":
            topic = self._topic()
            prose = Prose(topic.subject, topic.words, random.Random(seed))  # noqa: S311 - texts are made up, not secrets
            return Answer(prose.paragraphs(self._words(later=True)), None, "stop")
        calls: tuple[str, ...] = ()
        if asked.entries is None:
            value = self._writer(self._topic(), seed, later=True).write(asked.form.schema, "answer")
            text = _json(VALUE_LIES.get(self._fault, _as_it_is)(value))
        else:
            text, calls = self._several(asked.entries, seed)
        named = asked.form.by_name and asked.dialect.finish_when_named == "stop"
        finish = "stop" if asked.form.tool is None or named else "tool_calls"
        return Answer(text, asked.form.tool, finish, calls)

    def _several(self, entries: Entries, seed: str) -> tuple[str, tuple[str, ...]]:
        """Return the text of an answer that holds several entries, and the texts of one call an entry where that is the fault."""
        asked = self._asked
        named = all_named(asked.request, entries.keys)
        text, before = (asked.request, asked.before) if named else (f"{asked.before}\n\n{asked.request}", "")
        topics = topics_by_name(text, entries.keys, before=before)
        schemas = dict(zip(entries.keys, entries.schemas, strict=True))

        def write(key: str, salt: str = "") -> Any:
            writer = self._writer(topics[key], f"{seed}/{key}{salt}", later=key != entries.keys[0])
            # a bare string is the whole of what its caller asked for
            return writer.write(schemas[key], "content" if type_of(schemas[key]) == "string" else key)

        pairs = [(key, write(key)) for key in entries.keys]
        if self._fault in ENTRY_LIES:
            pairs = ENTRY_LIES[self._fault](pairs, lambda key: write(key, "/again"))
        calls = tuple(frame("", entries, [pair]) for pair in pairs) if self._fault == "parallel" and asked.form.tool else ()
        return frame(self._fault, entries, pairs), calls

    def _topic(self) -> Topic:
        return topic_of(self._asked.request, rest=self._asked.before)

    def _words(self, *, later: bool) -> int:
        return _SHORT_WORDS if self._fault == "short" and later else self._content_words

    def _writer(self, topic: Topic, seed: str, *, later: bool) -> Writer:
        root: Json = self._asked.form.schema or {}
        chance = random.Random(seed)  # noqa: S311 - texts are made up, not secrets
        return Writer(root, topic, chance, self._words(later=later), self._asked.shapes)

    def _finished(self, answer: Answer) -> Answer:
        """Apply what the fault does to the text, then the token limit, then count."""
        answer = self._thinking(self._endless(TEXT_LIES.get(self._fault, _as_it_is)(answer)))
        text = "".join(answer.calls) or answer.text
        limit = self._asked.limit
        if limit is not None and not answer.calls and self._fault != "huge":
            cut = self._tokens.cut(text, max(1, limit - answer.thought_tokens))
            answer = answer if len(cut) == len(text) else replace(answer, text=cut, finish="length")
            text = cut
        return replace(answer, tokens=self._tokens.count(text) + answer.thought_tokens)

    def _endless(self, answer: Answer) -> Answer:
        """Let a string go on where nothing ends it."""
        if not self._asked.endless:
            return answer
        start = answer.text[: len(answer.text) // 2]
        return replace(answer, text=start + " and so on" * _ENDLESS_WORDS, finish="length")

    def _thinking(self, answer: Answer) -> Answer:
        if not self._asked.thinks:
            return answer
        return replace(answer, thoughts=_THOUGHTS, thought_tokens=self._tokens.count(_THOUGHTS))


def _as_it_is(value: Any) -> Any:
    return value


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
