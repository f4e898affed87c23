"""Applies the policy's rules to what was read of a call; it knows how conditions are tested, not which rules there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

from proxy.lessons.forms.chat import ChatRequest
from proxy.lessons.phrases import PhraseSet
from proxy.lessons.structure import fold
from proxy.model import Call
from proxy.policy import Rule, When

_EVERY = "*"
_PASSAGE_WORDS = 8
_TEXT_END = " . "
"""No sentence runs from one text into the next."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the prompt says, as rules ask for it."""

    phrases: frozenset[str]
    labels: Mapping[str, int]
    """All labels, with the number of words behind each."""
    json_keys: frozenset[str]


@lru_cache(maxsize=1024)
def _like_any(value: str, patterns: tuple[str, ...]) -> bool:
    low = value.casefold()
    return any(fnmatchcase(low, pattern.casefold()) for pattern in patterns)


def _like(value: str, pattern: str) -> bool:
    return _like_any(value, (pattern,))


class _Compiled:
    """One rule, with its lists folded once."""

    def __init__(self, rule: Rule) -> None:
        when = rule.when
        self.rule = rule
        self._when = when
        self._schema_any = frozenset(fold(name) for name in when.schema_any)
        self._schema_none = frozenset(fold(name) for name in when.schema_none)
        self._prompt_any = frozenset(when.prompt_any)
        self._prompt_none = frozenset(when.prompt_none)
        self._label_any = frozenset(name.casefold() for name in when.label_any)
        self._passage_any = tuple(name.casefold() for name in when.passage_any)
        self._json_any = frozenset(fold(name) for name in when.json_any)
        self.says_schema = bool(when.schema_any) and rule.merge_calls
        self.says_prompt = bool(when.prompt_any) and rule.merge_calls
        self.is_of_form = self.says_schema and not when.prompt_any

    def fits_call(self, request: ChatRequest, call: Call) -> bool:
        """Test all but the prompt's and the schema's conditions."""
        when, asked = self._when, request.asked
        if when.shape and asked.shape not in when.shape:
            return False
        if when.tool is not None and (asked.name is None or not _like(asked.name, when.tool)):
            return False
        if asked.name is not None and _like_any(asked.name, when.tool_none):
            return False
        return _fits_address(when, request, call)

    def fits_schema(self, request: ChatRequest) -> bool:
        if self._schema_any and len(self._schema_any & request.fields) < self._when.schema_least:
            return False
        return self._schema_none.isdisjoint(request.fields)

    def fits_prompt(self, prompt: Prompt) -> bool:
        if self._prompt_any and self._prompt_any.isdisjoint(prompt.phrases):
            return False
        if self._label_any and self._label_any.isdisjoint(prompt.labels):
            return False
        if self._passage_any and max(prompt.labels.get(name, 0) for name in self._passage_any) < _PASSAGE_WORDS:
            return False
        if self._json_any and self._json_any.isdisjoint(prompt.json_keys):
            return False
        return self._prompt_none.isdisjoint(prompt.phrases)

    def speaks_for(self, request: ChatRequest) -> bool:
        """Tell whether this rule says, for such an answer's form, what a lesson looks like."""
        shape, named = request.asked.shape, self._when.shape
        if shape in {"tool", "json_schema"}:
            return self.says_schema
        if shape == "json_object" and self.says_schema and shape in named:
            return True
        return self.says_prompt and (not named or shape in named)


def _fits_address(when: When, request: ChatRequest, call: Call) -> bool:
    if when.model is not None and not _like(request.model, when.model):
        return False
    if when.path is not None and not _like(call.path, when.path):
        return False
    return all(_like(call.headers.get(name.casefold(), ""), pattern) for name, pattern in when.headers.items())


@dataclass(frozen=True, slots=True)
class Verdict:
    """The rule that a call matches; `against`: the guard or exception by which it goes alone."""

    rule: Rule | None
    against: Rule | None = None


class RuleBook:
    """The rules in their order; raises ValueError for a phrase that can't be read."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        # a rule that only says what goes alone is switched off by its mode; one that merges says so to its callers
        compiled = tuple(_Compiled(rule) for rule in rules if rule.merge_calls or rule.mode != "off")
        self._guards = tuple(one for one in compiled if one.rule.guard and not one.rule.merge_calls)
        self._plain = tuple(one for one in compiled if not (one.rule.guard and not one.rule.merge_calls))
        self._describing = tuple(one for one in self._plain if one.says_schema or one.says_prompt)
        self._phrases = PhraseSet(phrase for rule in rules for phrase in (*rule.when.prompt_any, *rule.when.prompt_none))

    def phrases_in(self, shared: Iterable[str], own: Iterable[str]) -> frozenset[str]:
        """Return the rules' phrases that stand in the texts, those that many calls share and the call's own."""
        found = frozenset[str]().union(*map(self._phrases.found_in_shared, shared))
        return found | self._phrases.found_in(_TEXT_END.join(own))

    def may_be_lesson(self, request: ChatRequest, call: Call) -> bool:
        """Tell whether a rule that merges could match, whatever the prompt says."""
        return any(
            one.rule.merge_calls
            and one.fits_call(request, call)
            and (request.asked.schema is None or one.fits_schema(request))
            and self._looks_right(one, request, _fits_schema(request))
            for one in self._plain
        )

    def by_form(self, request: ChatRequest, call: Call) -> str | None:
        """Return the rule that the form of the answer alone would match: what asks so is a lesson call, whatever it lacks."""
        if request.asked.schema is None:
            return None
        fitting = (one for one in self._plain if one.is_of_form and one.fits_call(request, call) and one.fits_schema(request))
        return next((one.rule.name for one in fitting), None)

    def judge(self, request: ChatRequest, call: Call, prompt: Prompt) -> Verdict:
        """Return the first rule that matches, and what stands against it."""

        def fits(one: _Compiled) -> bool:
            return one.fits_prompt(prompt) and one.fits_call(request, call) and one.fits_schema(request)

        rule = next((one.rule for one in self._plain if fits(one) and self._looks_right(one, request, _fits_all(request, prompt))), None)
        if rule is not None and not rule.merge_calls:
            return Verdict(rule, rule)
        despite = () if rule is None else rule.despite
        for one in self._guards:
            if _EVERY not in despite and one.rule.name not in despite and fits(one):
                return Verdict(rule, one.rule)
        return Verdict(rule)

    def _looks_right(self, one: _Compiled, request: ChatRequest, fits: Callable[[_Compiled], bool]) -> bool:
        """Test that a call looks like a lesson: a rule that doesn't say what one looks like takes the others' word.

        So an operator's rule that names a tool never makes a lesson of what has only its name.
        """
        if not one.rule.merge_calls or one.speaks_for(request):
            return True
        describing = [other for other in self._describing if other.speaks_for(request)]
        return not describing or any(fits(other) for other in describing)


def _fits_schema(request: ChatRequest) -> Callable[[_Compiled], bool]:
    return lambda other: other.fits_schema(request)


def _fits_all(request: ChatRequest, prompt: Prompt) -> Callable[[_Compiled], bool]:
    # a schema speaks for itself; where there is none, the prompt must
    return lambda other: other.fits_schema(request) and (request.asked.schema is not None or other.fits_prompt(prompt))
