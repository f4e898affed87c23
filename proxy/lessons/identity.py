"""Reads which learner a call is for from the sources that the policy names; it knows nothing of keys or batches.

Total: whatever stands in a source, the answer is a `Learner`, nobody (None) or a conflict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from proxy.model import Call, Json
from proxy.policy import IdentityPolicy, Source

GROUP_HEADER = "x-lesson-group"
_MAX_INTEGER = 2**64


@dataclass(frozen=True, slots=True)
class Learner:
    """Whose calls may share a batch within one API key."""

    kind: Literal["user", "group", "api_key"]
    parts: tuple[str, ...] = field(repr=False)

    @property
    def name(self) -> str:
        """Return the learner as one text; parts are parted by a line break, which no header holds."""
        return "\n".join(self.parts)


def read_source(source: Source, headers: Mapping[str, str], body: Json) -> Any:
    """Return what stands at a `header.`, `body.` or `metadata.` source; None where nothing does."""
    kind, _, name = source.partition(".")
    if kind == "header":
        return headers.get(name.casefold())
    found: Any = body
    for step in [name] if kind == "body" and name in body else source.removeprefix("body.").split("."):
        found = cast("Json", found).get(step) if isinstance(found, dict) else None
    return found


def body_fields(policy: IdentityPolicy) -> frozenset[str]:
    """Return the names of the top-level body fields that tell the learner."""
    return frozenset(name for kind, name in _simple_sources(policy) if kind == "body")


def metadata_fields(policy: IdentityPolicy) -> frozenset[str]:
    """Return the names of the metadata that tell the learner."""
    return frozenset(name for kind, name in _simple_sources(policy) if kind == "metadata")


def _simple_sources(policy: IdentityPolicy) -> list[tuple[str, str]]:
    flat = [part for source in policy.user for part in ((source,) if isinstance(source, str) else source)]
    return [(kind, name) for kind, _, name in (source.partition(".") for source in flat)]


class IdentityReader:
    """Reads the learner of calls by one policy."""

    def __init__(self, policy: IdentityPolicy) -> None:
        self._sources = tuple((source,) if isinstance(source, str) else tuple(source) for source in policy.user)
        self._ignored = frozenset(value.strip().casefold() for value in policy.ignore)
        self._by_key = policy.when_missing == "api_key"

    def read(self, call: Call) -> Learner | Literal["conflict"] | None:
        """Return the learner, None where no source names one, or `conflict` where sources disagree."""
        found: tuple[str, ...] = ()
        halves: set[str] = set()
        for source in self._sources:
            parts = self._parts(source, call)
            if len(parts) < len(source):
                halves.update(parts)
                continue
            if found and not _agree(parts, found):
                return "conflict"
            found = parts if len(parts) > len(found) else found
        if found:
            # a tenant without its user, beside a user who may be of any tenant
            return Learner("user", found) if halves <= set(found) else "conflict"
        group = self._text(call.headers.get(GROUP_HEADER))
        if group is not None:
            return Learner("group", (group, *sorted(halves)))
        if self._by_key and call.caller.key_digest:
            return Learner("api_key", (call.caller.key_digest, *sorted(halves)))
        return None

    def half(self, call: Call) -> tuple[str, ...]:
        """Return what is known of a learner whom no source names whole: the calls of two tenants must not meet."""
        return tuple(sorted({part for source in self._sources if len(source) > 1 for part in self._parts(source, call)}))

    def _parts(self, source: tuple[Source, ...], call: Call) -> tuple[str, ...]:
        """Return the parts that are there; fewer than the source names: it tells no learner."""
        parts = (self._text(read_source(part, call.headers, call.body)) for part in source)
        return tuple(part for part in parts if part is not None)

    def _text(self, value: Any) -> str | None:
        if isinstance(value, bool):
            return None
        if isinstance(value, int):
            text = str(value) if abs(value) < _MAX_INTEGER else ""
        elif isinstance(value, float):
            text = repr(value)
        else:
            text = value.strip() if isinstance(value, str) else ""
        return None if not text or text.casefold() in self._ignored else text


def _agree(parts: tuple[str, ...], found: tuple[str, ...]) -> bool:
    """Tell whether two sources may mean one learner: one that names more (tenant and user) agrees with one that names a part of it."""
    if len(parts) == len(found):
        return parts == found
    return set(parts) <= set(found) or set(found) <= set(parts)
