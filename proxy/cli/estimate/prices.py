"""What calls cost in input tokens, alone and merged: the bodies that would go upstream, counted with the real tokenizer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from proxy.cli.providers import find
from proxy.dispatch.course import prompt_text
from proxy.interfaces import Tokens
from proxy.lessons.merge import MergedBody, Unmergeable, merge
from proxy.model import Capability, Json, Lesson
from proxy.settings import Settings

_SEED = "estimate"
_REMEMBERED = 2_000
"""Batches and models: neighbouring windows make the same batches, so most are counted once."""


class Prices:
    """Counts by the capability of each model's first deployment."""

    def __init__(self, settings: Settings, tokens: Tokens) -> None:
        self._settings = settings
        self._tokens = tokens
        self._capabilities: OrderedDict[str, Capability | str] = OrderedDict()
        self._batches: OrderedDict[tuple[str, ...], int | str] = OrderedDict()

    def lone(self, body: Json) -> int:
        """Return the input tokens of a call as it was made; 0 for what is no chat."""
        messages = body.get("messages")
        readable = isinstance(messages, list) and all(isinstance(message, dict) for message in messages)  # pyright: ignore[reportUnknownVariableType]
        return self._tokens.count(prompt_text(body)) if readable else 0

    def merged(self, lessons: Sequence[Lesson]) -> int | str:
        """Return the input tokens of the one call that these would become, or why they would go alone."""
        ids = tuple(lesson.id for lesson in lessons)
        price = self._batches.get(ids)
        if price is None:
            price = self._batches[ids] = self._merged(lessons)
            if len(self._batches) > _REMEMBERED:
                self._batches.popitem(last=False)
        return price

    def output_limit(self, model: str) -> int | None:
        """Return how many tokens an answer of the model can have; None: not known."""
        capability = self._capability(model)
        return None if isinstance(capability, str) else capability.max_output_tokens

    def _merged(self, lessons: Sequence[Lesson]) -> int | str:
        first = lessons[0]
        capability = self._capability(first.model)
        if isinstance(capability, str):
            return capability
        match merge(lessons, capability, seed=_SEED, carrier=first.merge.carrier):
            case MergedBody() as merged:
                return self._tokens.count(prompt_text(merged.body))
            case Unmergeable(reason):
                return f"unmergeable:{reason}"

    def _capability(self, model: str) -> Capability | str:
        """Return what the model can do, or why nobody knows."""
        known = self._capabilities.get(model)
        if known is None:
            known = self._capabilities[model] = _found(model, self._settings)
            if len(self._capabilities) > _REMEMBERED:
                self._capabilities.popitem(last=False)
        return known


def _found(model: str, settings: Settings) -> Capability | str:
    try:
        found = find(model, settings)
    except ValueError:
        return "no_deployment"
    return "model_not_found" if found is None else found.capability
