"""One batch on its way from here, for own callers and for calls of other replicas; the delivery that dispatch settles it with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from proxy.model import Batch, CallId, Failed, Merged, Outcome, Usage
from proxy.windows.protocol import Epoch, Ticket
from proxy.windows.seats import Seat, deliver, is_for


class SharedRide:
    """`own` are the seats here, `others` the tickets of calls elsewhere, both by their lessons' ids.

    `wanted` tells whether another's call still waits for its outcome, `bring` hands that outcome to its owner.
    """

    def __init__(
        self,
        batch: Batch,
        own: Mapping[CallId, Seat],
        others: Mapping[CallId, Ticket],
        *,
        wanted: Callable[[Epoch, Ticket], bool],
        bring: Callable[[Epoch, Ticket, Outcome], None],
    ) -> None:
        self.batch = batch
        self.epoch = Epoch(batch.id)
        self.task: asyncio.Task[None] | None = None
        self._own = own
        self._others = others
        self._wanted = wanted
        self._bring = bring
        for seat in own.values():
            seat.ride = self

    @property
    def seats(self) -> Iterable[Seat]:
        """The own seats of the batch."""
        return self._own.values()

    def deliver(self, outcome: Outcome, call: CallId) -> bool:
        """Settle one call of this batch, here or by way of the store."""
        ticket = self._others.get(call)
        if ticket is None:
            return deliver(self.batch, self._own.get(call), outcome, call)
        if not self._wanted(self.epoch, ticket) or not is_for(outcome, call, self.batch.id):
            return False
        self._bring(self.epoch, ticket, outcome)
        return True

    def waiting(self, call: CallId) -> bool:
        """Tell whether somebody waits for this call, and it has no outcome yet."""
        ticket = self._others.get(call)
        if ticket is not None:
            return self._wanted(self.epoch, ticket)
        seat = self._own.get(call)
        return seat is not None and seat.waiting

    def left(self) -> None:
        """Stop what runs for nobody, once the last caller has gone, here and elsewhere."""
        if self.task and not any(map(self.waiting, [*self._own, *self._others])):
            self.task.cancel()

    def end(self) -> None:
        """Settle whom dispatch has forgotten: their callers go alone."""
        merged = Merged(self.batch.id, len(self.batch.lessons))
        for call in [*self._own, *self._others]:
            self.deliver(Failed(call, "dispatch_error", Usage(), merged), call)
