"""One merged call while it runs: pieces in, outcomes out, and the account of who used what; it knows no clock or network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

import orjson

from proxy.dispatch.ledger import Ledger, Spent, scaled
from proxy.errors import ProxyError
from proxy.interfaces import Delivery, Tokens
from proxy.lessons.merge import MergedBody
from proxy.lessons.split import MAX_TEXT, Invalid, Part, Split, Stray, Valid
from proxy.lessons.usage import Accounts
from proxy.model import Completed, Failed, Json, Lesson, Merged, Piece, Refused, Usage

BROKEN_OFF = "upstream_broken_off"
"""Why lessons fail whose stream ended without a word of its end: the connection's fault, not the model's."""
_NOT_THERE = frozenset({"missing", "cut_off"})
"""Faults of entries that upstream's failure explains."""


class Course:
    """Feeds one merged call's pieces to the splitter and settles its lessons as their entries close.

    The last open lesson is kept back until upstream told the call's usage or `finish` is called, since it gets the
    rest of that usage.
    """

    def __init__(self, lessons: Sequence[Lesson], merged: MergedBody, delivery: Delivery, tokens: Tokens, ledger: Ledger) -> None:
        self._lessons = lessons
        self._delivery = delivery
        self._tokens = tokens
        self._ledger = ledger
        self._split = Split(lessons, merged.keys)
        self._prompt_estimate = tokens.count(prompt_text(merged.body))
        self._accounts = Accounts(len(lessons), self._prompt_estimate)
        self._lone_prompts = _lone_prompts(lessons, tokens)
        self._spent = Spent()
        self._open = set(range(len(lessons)))
        self._last: Valid | None = None
        self._text: list[str] = []
        self._text_chars = 0
        self._usage: Usage | None = None
        self._model = ledger.deployment.model if ledger.deployment else ""
        self._counted = False
        """Upstream did not tell its usage to the end: what is known was counted here."""
        self._finish_reason: str | None = None
        self.refused = False
        """Upstream refused or filtered the content."""
        self.lengths: list[int] = []
        """Completion tokens (counted) of each valid lesson."""

    @property
    def started(self) -> bool:
        """Tell whether upstream wrote anything yet."""
        return self._text_chars > 0

    @property
    def complete(self) -> bool:
        """Tell whether nothing more is needed of upstream but its usage, or nothing more of it would be read."""
        return not self._open or self._text_chars > MAX_TEXT

    @property
    def pointless(self) -> bool:
        """Tell whether upstream only writes on for callers that have left."""
        return bool(self._open) and not any(self._delivery.waiting(self._lessons[i].id) for i in self._open)

    @property
    def known_usage(self) -> Usage | None:
        """Return what upstream told of its usage; None before its last word (some tell a running count).

        No usage is whole that leaves out the prompt, or what was written.
        """
        told = self._usage
        whole = told and self._finish_reason and told.prompt and (told.completion or not self.started)
        return told if whole else None

    def take(self, piece: Piece) -> None:
        """Take one piece of upstream's stream."""
        self._model = piece.model or self._model
        self._finish_reason = piece.finish_reason or self._finish_reason
        if piece.usage and (piece.usage.prompt or piece.usage.completion):  # some tell nothing but zeros
            self._usage = piece.usage
        self.refused |= piece.refused
        if piece.text:
            self._text.append(piece.text)
            self._text_chars += len(piece.text)
        for part in self._split.feed(piece):
            self._settle(part, None)
        if self.known_usage:
            self._accounts.settle(self.known_usage)
            self._complete_last()

    def finish(self, reason: str | None = None, *, error: ProxyError | None = None) -> None:
        """Settle everything that is open.

        `reason` is why upstream did not end by itself; with `error` the open callers get that in place of calls of their own.
        """
        failure = reason or self._own_failure()
        self._account()
        cut_off = failure is not None or error is not None or self._finish_reason in (None, "length")
        for part in self._split.finish(cut_off=cut_off):
            if isinstance(part, Invalid) and error is not None:
                self._refuse(part, error)
            else:
                self._settle(part, failure)
        self._complete_last()
        self._ledger.unassigned += self._accounts.unassigned
        self._ledger.lessons += len(self.lengths)
        self._ledger.add(self._spent, self._accounts.usage, self._prompt_estimate)

    def _own_failure(self) -> str | None:
        """Say what upstream's end was, where it was none that a model makes."""
        if self.refused:
            return "refused"
        return BROKEN_OFF if self._finish_reason is None and not self.complete else None

    def _account(self) -> None:
        usage = self.known_usage or self._usage or Usage()
        if self.known_usage is None and self.started:
            self._counted = self._ledger.estimated = True
            prompt = usage.prompt or self._prompt_estimate
            completion = max(usage.completion, self._tokens.count("".join(self._text)))
            usage = Usage(prompt, completion, usage.reasoning, min(usage.cached, prompt))
        self._accounts.settle(usage)

    def _settle(self, part: Part, failure: str | None) -> None:
        match part:
            case Stray():
                self._ledger.dropped[part.reason] += 1
                self._spent.thrown += self._tokens.count(part.text)
            case Valid():
                self._open.discard(part.index)
                if self._open or self._accounts.settled:
                    self._complete(part)
                else:
                    self._last = part
            case Invalid():
                self._open.discard(part.index)
                self._fail(part, (failure or part.reason) if part.reason in _NOT_THERE else part.reason)
            case _:
                assert_never(part)

    def _complete_last(self) -> None:
        if self._last:
            last, self._last = self._last, None
            self._complete(last)

    def _complete(self, part: Valid) -> None:
        lesson = self._lessons[part.index]
        completion = self._tokens.count(part.content)
        self.lengths.append(completion)
        if not self._delivery.waiting(lesson.id):
            self._accounts.forgo(completion)
            self._spent.left += completion
            self._spent.left_prompt += self._lone_prompts[part.index]
            return
        share = self._accounts.claim(completion)
        outcome = Completed(
            id=lesson.id,
            content=part.content,
            model=self._model,
            usage=share,
            estimated=not self._accounts.settled or self._counted,
            input_tokens_saved=max(0, self._as_upstream_counts(self._lone_prompts[part.index]) - share.prompt),
            batch=self._merged,
        )
        self._delivery.deliver(outcome, lesson.id)
        self._ledger.completed += 1
        self._spent.delivered += completion
        self._spent.lone_prompt += self._lone_prompts[part.index]

    def _as_upstream_counts(self, prompt: int) -> int:
        """Return a prompt of our counting in upstream's: other tokenizers and templates count otherwise."""
        return scaled(prompt, self._accounts.usage.prompt, self._prompt_estimate)

    def _fail(self, part: Invalid, reason: str) -> None:
        lesson = self._lessons[part.index]
        completion = self._tokens.count(part.text)
        self._spent.thrown += completion
        if not self._delivery.waiting(lesson.id):
            self._accounts.forgo(completion)
            return
        # no more than its own entry, also where it is the last: the rest is nobody's who has no lesson
        spent = self._accounts.claim(completion, rest=False)
        self._delivery.deliver(Failed(lesson.id, reason, spent, self._merged), lesson.id)
        self._ledger.failed[reason] += 1

    def _refuse(self, part: Invalid, error: ProxyError) -> None:
        lesson = self._lessons[part.index]
        self._open.discard(part.index)
        completion = self._tokens.count(part.text)
        self._spent.thrown += completion
        self._accounts.forgo(completion)
        self._ledger.error = error.code or error.type
        if self._delivery.deliver(Refused(lesson.id, error, self._merged), lesson.id):
            self._ledger.refused += 1

    @property
    def _merged(self) -> Merged:
        return Merged(self._ledger.batch.id, len(self._ledger.batch.lessons))


def prompt_text(body: Json) -> str:
    """Return what of a body the model reads, roughly: its messages' texts and its tools or schema."""
    texts = [content if isinstance(content, str) else _json(content) for m in body["messages"] if (content := m.get("content"))]
    texts += [_json(body[name]) for name in ("tools", "response_format") if body.get(name)]
    return "\n".join(texts)


def _lone_prompts(lessons: Sequence[Lesson], tokens: Tokens) -> list[int]:
    return [tokens.count(prompt_text(lesson.body)) for lesson in lessons]


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
