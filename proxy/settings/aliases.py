"""Which entries of model_list a model name leads to: its own first, else the longest wildcard that matches it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from proxy.settings.providers import FALLBACK_SETTINGS, ModelEntry, RouterSettings


def entries_for(model_list: Sequence[ModelEntry], name: str) -> tuple[ModelEntry, ...]:
    """Return the entries that serve `name` (a wildcard's own name leads to itself); empty: nobody answers to it."""
    names = {entry.model_name for entry in model_list}
    if name not in names:
        # litellm's order: the longest pattern says most
        name = max((pattern for pattern in names if "*" in pattern and _matches(pattern, name)), key=len, default=name)
    return tuple(entry for entry in model_list if entry.model_name == name)


def fallback_pairs(router: RouterSettings) -> Iterator[tuple[str, str, str]]:
    """Yield place, alias and target of every fallback; the alias `*` is every alias."""
    for setting in FALLBACK_SETTINGS:
        for index, entry in enumerate(getattr(router, setting)):
            for alias, targets in entry.items():
                for target in targets:
                    yield f"router_settings.{setting}[{index}].{alias}", alias, target
    for index, target in enumerate(router.default_fallbacks):
        yield f"router_settings.default_fallbacks[{index}]", "*", target


def _matches(pattern: str, name: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), name, re.DOTALL) is not None
