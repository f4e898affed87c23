"""Which further paths under `/v1/` are forwarded, and to which alias: an operator's key never opens a path that nobody named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

CATCH_ALL = "*"


@dataclass(frozen=True, slots=True)
class NamedPath:
    """A path that the configuration opens by name, for these methods; its calls go to the alias `model`."""

    path: str
    methods: tuple[str, ...]
    model: str


@dataclass(frozen=True, slots=True)
class OpenPaths:
    """Decides where a path goes that the proxy does not know by itself."""

    named: Sequence[NamedPath] = ()
    callers_own: Callable[[str], bool] | None = None
    """Whether calls of an alias (or of no model: `*`) go upstream with the caller's own key; None: those of no alias do."""

    def may_be_open(self, path: str) -> bool:
        """Tell whether a call of this path can go anywhere: where it can't, its body need not be read."""
        return self.callers_own is not None or bool(self.methods(path))

    def methods(self, path: str) -> tuple[str, ...]:
        """Return the methods by which the configuration names this path; none where it does not."""
        return tuple(sorted({method for named in self.named if named.path == path for method in named.methods}))

    def alias(self, path: str, method: str, model: str) -> str | None:
        """Return the alias that the path goes to; None: the path stays closed. `model` is the body's, empty where it names none."""
        for named in self.named:
            if named.path == path and method in named.methods:
                return named.model
        asked = model or CATCH_ALL
        return asked if self.callers_own is not None and self.callers_own(asked) else None
