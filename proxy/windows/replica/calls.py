"""The calls that one replica owns, from joining until each is settled or part of an own batch."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from proxy.model import BatchKey
from proxy.windows.protocol import Command, Epoch, Join, Ticket
from proxy.windows.replica.effects import Effect, GoAlone, Note, Send

Stage = Literal["joining", "waiting", "leaving", "riding", "lost"]
"""leaving: withdrawn, unless it turns out to ride; riding: in another's batch; lost: about to be taken back."""
BACK = "taken_back:"
"""How the reasons begin for which a call goes alone that a shared window did not serve."""

_NOWHERE = Epoch("")
_REMEMBERED = 1024
"""Calls that were taken back lately, whose outcomes are counted as late."""
_HELD = frozenset({"joining", "waiting", "leaving"})


@dataclass(slots=True)
class OwnCall:
    """One call and where it is."""

    join: Join
    joined: float
    caller: Any
    bearer: bool
    stage: Stage = "joining"
    epoch: Epoch = _NOWHERE
    closes_at: float = inf
    """Its window's bound, or when that was claimed."""
    withdraw_at: float = inf
    """When it is withdrawn from another's window that nobody has claimed."""
    why: str = ""
    """For what it is taken back, where that was begun."""
    rode: bool = False
    """The store, or a message, said that its window was claimed."""
    known_at: float = 0.0
    """When the store last said that it rides."""
    asking: bool = False
    """Its slot is being looked at."""
    due_at: float = inf
    """When the window that it opened is to be claimed, as was said before the store had said that it opened one."""
    woken: bool = False
    """Its outcome, or that a window was claimed, was announced before the store had said where it is."""
    gone: bool = False
    """Its caller left before the store had said where it is."""

    @property
    def id(self) -> Ticket:
        """The call's ticket."""
        return self.join.id

    @property
    def give_up_at(self) -> float:
        """When the time left is short: just enough to write the lesson alone."""
        plan = self.join.plan
        if plan.deadline_s is None:
            return inf
        return self.joined + plan.deadline_s - (plan.lesson_s or plan.deadline_s / 4)


class Calls:
    """The registry, with the list of what is to be done for its calls."""

    def __init__(self) -> None:
        self._calls: dict[Ticket, OwnCall] = {}
        self._effects: list[Effect] = []
        self._taken_back: OrderedDict[Ticket, None] = OrderedDict()
        self.held: Counter[BatchKey] = Counter()
        """Keys with an open window: by own calls there, and one more where the window is led here."""
        self.waiting = 0
        """The number of calls in open windows."""

    def get(self, ticket: Ticket) -> OwnCall | None:
        """Return the call; None: it was settled, or left, or is part of an own batch."""
        return self._calls.get(ticket)

    def everyone(self) -> list[OwnCall]:
        """Return all calls as they are now."""
        return list(self._calls.values())

    def add(self, call: OwnCall) -> None:
        """Take a call in that is joining."""
        self._calls[call.id] = call
        self._count(call, 1)

    def move(self, call: OwnCall, stage: Stage) -> None:
        """Note that the call is elsewhere now."""
        if call.stage in _HELD:
            self._count(call, -1)
        call.stage = stage
        if call.stage in _HELD:
            self._count(call, 1)

    def drop(self, call: OwnCall) -> bool:
        """Forget the call; False: it was forgotten before."""
        if self._calls.pop(call.id, None) is None:
            return False
        if call.stage in _HELD:
            self._count(call, -1)
        return True

    def alone(self, call: OwnCall, reason: str) -> None:
        """Settle the call: it goes alone, if its caller is still there."""
        if not self.drop(call) or call.gone:
            return
        # what it waited for in another's batch was not its window
        self.do(GoAlone(call.id, reason, call.closes_at if call.rode else inf))
        if reason.startswith(BACK):
            self._taken_back[call.id] = None
            if len(self._taken_back) > _REMEMBERED:
                self._taken_back.popitem(last=False)

    def came_late(self, ticket: Ticket) -> None:
        """Count an outcome whose call is not here any more, where it was taken back."""
        if ticket in self._taken_back:
            del self._taken_back[ticket]
            self.do(Note("late"))

    def hold(self, key: BatchKey, number: int) -> None:
        """Count a window that is led here as open (1), or no longer (-1)."""
        self.held[key] += number
        if not self.held[key]:
            del self.held[key]

    def do(self, effect: Effect) -> None:
        """Add to what is to be done."""
        self._effects.append(effect)

    def send(self, command: Command, *, routine: bool = False) -> None:
        """Add a command for the store; `routine` as in `Send`."""
        self._effects.append(Send(command, routine))

    def taken(self) -> list[Effect]:
        """Return what is to be done, and begin a new list."""
        effects, self._effects = self._effects, []
        return effects

    def _count(self, call: OwnCall, number: int) -> None:
        self.waiting += number
        self.hold(call.join.key, number)
