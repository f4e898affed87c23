"""The seams: what the middle of the house needs of its edges, and nothing of how they do it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from proxy.model import Batch, Call, Caller, CallId, Deployment, Held, Json, Lesson, Outcome, Piece, Plan, Reply


class Tokens(Protocol):
    """Counts tokens; total: any text has a count, lone surrogates included."""

    def count(self, text: str) -> int:
        """Return the number of tokens of `text`."""
        ...


class Delivery(Protocol):
    """Where a dispatched batch puts its outcomes; every call of the batch is settled exactly once."""

    def deliver(self, outcome: Outcome, call: CallId) -> bool:
        """Settle one call; False: its caller has left or was settled before, so the outcome is waste."""
        ...

    def waiting(self, call: CallId) -> bool:
        """Tell whether the caller still waits for this call."""
        ...


class Dispatch(Protocol):
    """Sends one sealed batch upstream and settles each of its lessons."""

    async def __call__(self, batch: Batch, delivery: Delivery) -> None:
        """Return when every lesson is settled; a cancellation means that the last caller has left."""
        ...


class Window(Protocol):
    """Holds calls for their companions and brings back each call's outcome."""

    async def join(self, lesson: Lesson, plan: Plan, caller: Caller) -> Held:
        """Wait for the outcome and say how long the window held the call.

        Cancelling this leaves the batch, and stops it when the last caller leaves.
        """
        ...

    async def drain(self) -> None:
        """Close every open window at once; later calls are Alone("draining")."""
        ...

    async def settled(self) -> None:
        """Return when no batch is under way from here; some may be for callers of other processes alone."""
        ...

    async def aclose(self) -> None:
        """End every task that is still running and await it."""
        ...


class Ahead(Protocol):
    """Asks for the lessons of a loop's next calls together with the first, and keeps them."""

    @property
    def keep_s(self) -> float:
        """Return the seconds that a lesson is kept."""
        ...

    async def take(self, lesson: Lesson) -> Outcome | None:
        """Return the outcome of a lesson that was asked for ahead, waiting for it where it is being written; None: there is none."""
        ...

    async def ask(self, lesson: Lesson, caller: Caller, count: int) -> Outcome:
        """Send the lesson as `count` where there is room, and return its own outcome; cancelling it stops the batch."""
        ...


class Upstream(Protocol):
    """The providers, behind one face; raises only errors of `proxy.errors`."""

    def knows(self, model: str) -> bool:
        """Tell whether the configuration has a deployment for this alias."""
        ...

    def models(self) -> tuple[Json, ...]:
        """Return the model objects of `GET /v1/models`."""
        ...

    def max_output_tokens(self, model: str) -> int | None:
        """Return the smallest output limit among the alias's deployments; None: not known."""
        ...

    async def pick(self, model: str, caller: Caller) -> Deployment:
        """Choose the deployment that a batch goes to; raises UpstreamRateLimitedError where all are in cooldown."""
        ...

    def stream(self, deployment: Deployment, body: Json, caller: Caller) -> AbstractAsyncContextManager[AsyncIterator[Piece]]:
        """Send a batch once, without retries or fallbacks; leaving the context closes the call upstream."""
        ...

    async def send(self, call: Call, model: str, *, lesson: bool) -> Reply:
        """Send the caller's own request alone.

        `model` is the alias it goes to. A lesson is repeated on 429 and 5xx as `num_retries` says, anything else
        never. Upstream's own errors (status ≥ 400) come back as a Reply; the network's are raised.
        """
        ...


class Listener(Protocol):
    """Is told what happened; must not raise, block or keep what it is told."""

    def __call__(self, event: object, /) -> None:
        """Take one frozen event of `observe.events`."""
        ...
