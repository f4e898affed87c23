"""Counts what was asked and answered, for tests and measurements; bounded, and without prompts unless told to record."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from proxy.simulated.schema import Json

_MOST_MODELS = 256
_MOST_BODIES = 4_096
_OTHER = "(other)"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request as it came."""

    path: str
    headers: Mapping[str, str] = field(repr=False)
    """Lower-case names; the credential is among them."""
    body: Json = field(repr=False)


@dataclass(slots=True)
class Stats:
    """Counts since the start or the last reset."""

    record: int = 0
    requests: int = 0
    batches: int = 0
    """Requests that asked for several things at once."""
    entries: int = 0
    """The things asked for in those."""
    refused: int = 0
    """Requests that an error was answered to."""
    redirected: int = 0
    """Requests that followed a redirect."""
    left: int = 0
    """Requests whose client left before its answer's end."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Tokens written, those of unfinished answers included."""
    open_requests: int = 0
    open_streams: int = 0
    most_open: int = 0
    models: Counter[str] = field(default_factory=Counter[str])
    paths: Counter[str] = field(default_factory=Counter[str])
    recorded: deque[Recorded] = field(default_factory=deque[Recorded], repr=False)

    @contextmanager
    def open(self, path: str, *, stream: bool) -> Generator[None]:
        """Count a request as open while it is answered."""
        self.paths[path] += 1
        self.open_requests += 1
        self.open_streams += stream
        self.most_open = max(self.most_open, self.open_requests)
        try:
            yield
        finally:
            self.open_requests -= 1
            self.open_streams -= stream

    def asked(self, model: str, *, entries: int) -> None:
        """Count an understood request; `entries`: how many things it asks for at once, 0 for one."""
        self.requests += 1
        self.batches += entries > 0
        self.entries += entries
        self.models[model if model in self.models or len(self.models) < _MOST_MODELS else _OTHER] += 1

    def keep(self, request: Recorded) -> None:
        """Keep a request, and let the oldest go where there are too many."""
        if self.record:
            self.recorded.append(request)
            while len(self.recorded) > self.record:
                self.recorded.popleft()

    def as_json(self) -> Json:
        """Return the counts, and the bodies where they are recorded; never a credential."""
        counts: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                "requests", "batches", "entries", "refused", "redirected", "left", "prompt_tokens", "completion_tokens",
                "open_requests", "open_streams", "most_open",
            )
        }  # fmt: skip
        counts |= {"models": dict(self.models), "paths": dict(self.paths)}
        return counts | ({"bodies": [request.body for request in self.recorded]} if self.record else {})

    def reset(self) -> None:
        """Start counting anew; what is open stays counted as open."""
        fresh = Stats(record=self.record, open_requests=self.open_requests, open_streams=self.open_streams, most_open=self.open_requests)
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(fresh, name))


class Repeats:
    """Tells how often each body came before; forgets the ones not seen for longest."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, int] = OrderedDict()

    def next(self, raw: bytes) -> tuple[str, int]:
        """Return the body's digest and how often it came before, and count it."""
        digest = blake2b(raw, digest_size=12).hexdigest()
        before = self._seen.pop(digest, 0)
        self._seen[digest] = before + 1
        if len(self._seen) > _MOST_BODIES:
            self._seen.popitem(last=False)
        return digest, before
