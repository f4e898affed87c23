"""The part of the file about lessons, and how the operator's rules and the shipped ones become one list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Final, Self, cast

from pydantic import Field, ModelWrapValidatorHandler, PrivateAttr, TypeAdapter, model_validator

from proxy.policy import AheadPolicy, Checks, LessonPolicy, MergePolicy, Mode, Rule, Source, WindowPolicy
from proxy.settings.document import read_yaml
from proxy.settings.section import Section

RULES_FILE: Final = Path(__file__).parent.parent / "rules.yaml"

_RULES: Final = TypeAdapter(tuple[Rule, ...])
_DEFAULTS: Final = LessonPolicy()
_Raw = Mapping[str, Any]


class LessonSettings(Section):
    """What is a lesson call, how long it waits, how it is merged."""

    mode: Mode = "on"
    """on | off (pass everything through) | dry_run (recognise and count, never merge)."""
    window: WindowPolicy = WindowPolicy()
    recognise: tuple[Rule, ...] = ()
    """The first rule that matches decides. These stand before the shipped ones; one that has a shipped rule's name and no
    `when` changes that rule in its place."""
    shipped_rules: bool = True
    """false: of the shipped rules only those that `recognise` names."""
    subject: tuple[Source, ...] = _DEFAULTS.subject
    """Where the subject is looked up, the first that is there: header.NAME, body.NAME, metadata.NAME, label.NAME, json.NAME."""
    topic: tuple[Source, ...] = _DEFAULTS.topic
    merge: MergePolicy = MergePolicy()
    ahead: AheadPolicy = AheadPolicy()
    """For apps that ask for the same lesson again and again, awaiting each: the next ones are asked for with the first."""
    checks: Checks = Field(default_factory=dict)
    """What a lesson's top-level fields must be, beyond the caller's own schema; the others of a batch are not touched."""

    _written: tuple[_Raw, ...] = PrivateAttr(())

    @model_validator(mode="wrap")
    @classmethod
    def _remember(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        # a rule inherits what it leaves out, and only the file tells what that is
        made = handler(data)
        if isinstance(data, Mapping):
            rules = cast("Sequence[Any]", cast("_Raw", data).get("recognise", ()))
            made._written = tuple(asdict(rule) if isinstance(rule, Rule) else rule for rule in rules)  # noqa: SLF001 - its own
        return made

    @property
    def amendments(self) -> tuple[tuple[int, str], ...]:
        """Return place and name of the rules without a `when` of their own: each changes the shipped rule of its name."""
        return tuple((index, str(rule["name"])) for index, rule in enumerate(self._written) if "when" not in rule)

    def rules(self, shipped: Sequence[_Raw] | None = None) -> tuple[Rule, ...]:
        """Return every rule in the order in which it is tried, each completed with what it inherits.

        `shipped`: the rules to take for the shipped ones, as their file writes them.
        """
        own = [rule for rule in self._written if "when" in rule]
        changed = {str(rule["name"]): rule for rule in self._written if "when" not in rule}
        replaced = {rule["name"] for rule in own}
        # an amended rule keeps its place: the exceptions that stand before it must go on standing before it
        kept = [
            {**rule, **changed.get(rule["name"], {})}
            for rule in (shipped_rules() if shipped is None else shipped)
            if rule["name"] not in replaced and (self.shipped_rules or rule["name"] in changed)
        ]
        return _RULES.validate_python(tuple(self._completed(rule) for rule in (*own, *kept)))

    def _completed(self, rule: _Raw) -> _Raw:
        """Fill what the rule's own window and merge leave out with what is set for all."""
        base = {"window": asdict(self.window), "merge": asdict(self.merge)}
        return {key: _overlaid(base[key], value) if key in base and value else value for key, value in rule.items()}


@cache
def shipped_rules() -> tuple[_Raw, ...]:
    """Return the shipped rules as their file writes them, in order."""
    return tuple(read_yaml(RULES_FILE))


def shipped_names() -> frozenset[str]:
    """Return the names that a rule without `when` may have."""
    return frozenset(str(rule["name"]) for rule in shipped_rules())


def _overlaid(base: _Raw, over: _Raw) -> _Raw:
    return {
        **base,
        **{key: _overlaid(base[key], cast("_Raw", value)) if isinstance(value, Mapping) else value for key, value in over.items()},
    }
