"""Replicas, their store and their network under a virtual clock: the very machine and store model, and every misfortune.

A command travels to the store in order (but for one that its sender gave up: that may be carried out much later, and
for routine ones, which others may overtake), is carried out or lost, and its reply travels back or is lost; a message
comes, comes twice, or not. Replicas die, the store stops or forgets everything. What is promised whatever happens is
checked at the end by `judge`.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from proxy.model import Alone, BatchKey, Failed, Merged, Plan, Usage
from proxy.windows.protocol import Command, Epoch, Join, Mail, ReplicaId, Seated, Ticket
from proxy.windows.replica import Dispatch, Effect, GoAlone, Hand, Note, Recount, Replica, Send, Times
from proxy.windows.replica.calls import BACK
from proxy.windows.store import Store


@dataclass(frozen=True)
class Weather:
    """How bad it is. Shares are 0.0 to 1.0, times seconds."""

    delay_s: tuple[float, float] = (0.0002, 0.003)
    timeout_s: float = 0.05
    lost_commands: float = 0.0
    lost_replies: float = 0.0
    slow: float = 0.0
    """Commands that the store carries out only after their sender has given them up."""
    routine_waits_s: float = 0.0
    """So long at most a routine command lets others overtake it."""
    lost_mail: float = 0.0
    doubled_mail: float = 0.0
    late_mail: float = 0.0
    leaving: float = 0.0
    """Callers that leave before their answer."""
    deaths: tuple[float, ...] = ()
    """When a replica dies, and a new one comes in its place."""
    stops: tuple[tuple[float, float], ...] = ()
    """From when to when the store answers nobody."""
    losses: tuple[float, ...] = ()
    """When the store forgets everything."""
    failing: float = 0.0
    """Entries that their batch does not bring."""


CALM = Weather()
_ROUNDING_S = 1e-6
_LONGEST_BATCH_S = 1.5 + 5 * 2.0


@dataclass
class Caller:
    """One call's story."""

    ticket: Ticket
    key: BatchKey
    plan: Plan
    replica: Node
    came: float
    ended: float | None = None
    fates: list[str] = field(default_factory=list[str])
    merged: int = 0
    """How often its lesson was written in a batch."""
    epochs: set[Epoch] = field(default_factory=set[Epoch])
    """The windows in which the store seated it."""
    left: bool = False


class Node:
    """One replica: the machine, and the link to the store."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.me = ReplicaId(f"r{number}")
        rng = world.rng
        self.machine = world.make_machine(self.me, world.times, rng.random, max_waiting=world.bounds[0], max_windows=world.bounds[1])
        self.alive = True
        self.armed: float | None = None
        self.there_s = self.back_s = 0.0
        self.running: dict[Epoch, dict[Ticket, ReplicaId]] = {}

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self.send(effect)
                case GoAlone(ticket, reason):
                    self.world.settle(ticket, reason)
                case Hand(ticket, _, payload):
                    self.world.settle(ticket, self.world.opened(ticket, payload))
                case Dispatch():
                    self.world.dispatch(self, effect)
                case Recount(epoch):
                    self.recount(epoch)
                case Note(what):
                    self.world.notes[what] += 1
        self.arm()

    def send(self, send: Send) -> None:
        waits_s = self.world.rng.uniform(0, self.world.weather.routine_waits_s) if send.routine else 0.0
        if waits_s:
            self.world.at(waits_s, lambda: self.world.send(self, send.command) if self.alive else None)
        else:
            self.world.send(self, send.command)

    def recount(self, epoch: Epoch) -> None:
        riders = self.running.get(epoch, {})
        if riders and not any(self.waits(epoch, t, o) for t, o in riders.items()):
            del self.running[epoch]
            self.world.notes["stopped"] += 1
            self.world.at(0.0, lambda: self.perform(self.machine.ended(epoch, self.world.now)))

    def waits(self, epoch: Epoch, ticket: Ticket, owner: ReplicaId) -> bool:
        if owner == self.me:
            caller = self.world.callers[ticket]
            return not caller.fates and not caller.left
        return self.machine.wanted(epoch, ticket)

    def arm(self) -> None:
        due = self.machine.next_due()
        if due is None or due == self.armed:
            return
        self.armed = due
        self.world.at(max(0.0, due - self.world.now), lambda: self.ring(due))

    def ring(self, due: float) -> None:
        if self.alive and self.armed == due:
            self.armed = None
            self.perform(self.machine.due(self.world.now))


class World:
    """Everything, from one seed."""

    def __init__(
        self,
        seed: int,
        *,
        replicas: int = 3,
        weather: Weather = CALM,
        times: Times = Times(),  # noqa: B008
        lease_s: float = 5.0,
        bounds: tuple[int, int] = (1000, 1000),
        bearer: bool = False,
        make_machine: Callable[..., Replica] = Replica,
        make_store: Callable[..., Store] = Store,
    ) -> None:
        self.make_machine = make_machine
        self.rng = random.Random(seed)
        self.weather = weather
        self.times = times
        self.bounds = bounds
        self.bearer = bearer
        self.now = 0.0
        self.lease_s = lease_s
        self.store = make_store(lease_s=lease_s, keep_s=30.0)
        self.callers: dict[Ticket, Caller] = {}
        self.notes: Counter[str] = Counter()
        self.commands: Counter[str] = Counter()
        self.sizes: Counter[int] = Counter()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self.nodes = [Node(self, i) for i in range(replicas)]
        self._by_id = {node.me: node for node in self.nodes}
        for moment in weather.deaths:
            self.at(moment, self._die)
        for moment in weather.losses:
            self.at(moment, self.store.forget)

    def at(self, in_s: float, act: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (self.now + in_s, self._number, act))

    def run(self, until: float = float("inf")) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, act = heapq.heappop(self._events)
            act()

    def call(self, in_s: float, key: str, plan: Plan, replica: int | None = None, *, twin: str = "", deterministic: bool = False) -> Ticket:
        """A caller comes in `in_s`."""
        ticket = Ticket(f"c{len(self.callers) + self._number}")

        def come() -> None:
            number = self.rng.randrange(len(self.nodes)) if replica is None else replica
            node = self.nodes[number]
            caller = Caller(ticket, BatchKey(key), plan, node, self.now)
            self.callers[ticket] = caller
            join = Join(caller.key, ticket, node.me, Epoch(f"e{ticket}"), plan, twin or ticket, deterministic, payload=f"lesson {ticket}")
            node.perform(node.machine.join(join, ticket, self.now, bearer=self.bearer))
            if self.rng.random() < self.weather.leaving:
                self.at(self.rng.choice([0.0, 0.001, 0.02, 0.1, 0.5, 2.0]), lambda: self.leave(ticket))

        self.at(in_s, come)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        caller = self.callers[ticket]
        if caller.fates or caller.left or not caller.replica.alive:
            return
        caller.left, caller.ended = True, self.now
        node = caller.replica
        for epoch, riders in list(node.running.items()):
            if ticket in riders:
                node.recount(epoch)
                return
        node.perform(node.machine.left(ticket))

    def settle(self, ticket: Ticket, fate: str) -> None:
        caller = self.callers[ticket]
        assert caller.replica.alive
        if not caller.left:
            caller.fates.append(fate)
            caller.ended = self.now

    def opened(self, ticket: Ticket, payload: Any) -> str:
        if isinstance(payload, Alone):
            return payload.reason
        assert payload.id == ticket
        return "resent" if isinstance(payload, Failed) else "merged"

    # the network

    def send(self, node: Node, command: Command) -> None:
        self.commands[type(command).__name__] += 1
        weather, rng = self.weather, self.rng
        node.there_s = max(node.there_s, self.now + rng.uniform(*weather.delay_s))
        given_up = self.now + weather.timeout_s
        fails = [False]

        def fail() -> None:
            fails[0] = True
            if node.alive:
                node.perform(node.machine.answered(command, None, self.now))

        if self._stopped(node.there_s) or rng.random() < weather.lost_commands:
            self.at(weather.timeout_s, fail)
            return
        if rng.random() < weather.slow:
            self.at(weather.timeout_s, fail)
            self.at(weather.timeout_s + rng.expovariate(2.0), lambda: self._carry_out(node, command, None))
            return

        def reply(answer: Any) -> None:
            node.back_s = max(node.back_s, self.now + rng.uniform(*weather.delay_s))
            if rng.random() < weather.lost_replies or node.back_s > given_up:
                self.at(max(0.0, given_up - self.now), fail)
            else:
                self.at(
                    node.back_s - self.now, lambda: node.perform(node.machine.answered(command, answer, self.now)) if node.alive else None
                )

        self.at(node.there_s - self.now, lambda: self._carry_out(node, command, reply))

    def _carry_out(self, node: Node, command: Command, reply: Callable[[Any], None] | None) -> None:
        answer, mail = self.store.apply(command, self.now)
        if isinstance(command, Join) and isinstance(answer, Seated):
            self.callers[command.id].epochs.add(answer.epoch)
        self._post(mail)
        if reply:
            reply(answer)

    def _post(self, mail: Mail) -> None:
        rng, weather = self.rng, self.weather
        for to, message in mail:
            node = self._by_id[to]
            for _ in range(2 if rng.random() < weather.doubled_mail else 1):
                if rng.random() < weather.lost_mail:
                    continue
                late_s = rng.expovariate(2.0) if rng.random() < weather.late_mail else 0.0
                in_s = rng.uniform(*weather.delay_s) + late_s
                self.at(in_s, lambda node=node, message=message: self._wake(node, message))

    def _wake(self, node: Node, message: Any) -> None:
        if node.alive:
            node.perform(node.machine.woken(message, self.now))

    def _stopped(self, moment: float) -> bool:
        return any(begin <= moment < end for begin, end in self.weather.stops)

    # the rest of the house

    def dispatch(self, node: Node, effect: Dispatch) -> None:
        riders = {entry.id: entry.owner for entry in effect.entries}
        assert len(riders) == len(effect.entries) >= 2
        lessons_there = all(entry.owner == node.me or entry.payload == f"lesson {entry.id}" for entry in effect.entries)
        assert lessons_there, "the leader was given a window without the lessons of others"
        assert {self.callers[ticket].key for ticket in riders} == {effect.key}
        if self.bearer:
            assert any(owner == node.me for owner in riders.values()), "a batch without a caller's own credential"
        self.sizes[len(riders)] += 1
        assert len(riders) <= min(self.callers[ticket].plan.max_size for ticket in riders)
        for ticket in riders:
            self.callers[ticket].merged += 1
            # one's own go together without the store, where it doesn't give the window out
            assert effect.epoch in self.callers[ticket].epochs, f"{ticket} is in a batch of a window that it never joined"
        node.running[effect.epoch] = riders
        in_s = self.rng.uniform(0.5, 1.5)
        for place, (ticket, owner) in enumerate(riders.items()):
            in_s += self.rng.uniform(0.5, 2.0)
            last = place == len(riders) - 1
            self.at(in_s, lambda ticket=ticket, owner=owner, last=last: self._written(node, effect.epoch, ticket, owner, last=last))

    def _written(self, node: Node, epoch: Epoch, ticket: Ticket, owner: ReplicaId, *, last: bool) -> None:
        if not node.alive or epoch not in node.running:
            return
        fails = self.rng.random() < self.weather.failing
        outcome = Failed(ticket, "missing", Usage(), Merged(epoch, 2)) if fails else _Lesson(ticket)  # pyright: ignore[reportArgumentType]
        if owner == node.me:
            if not self.callers[ticket].left:
                self.settle(ticket, self.opened(ticket, outcome))
        elif node.machine.wanted(epoch, ticket):
            node.perform(node.machine.brought(epoch, ticket, outcome, self.now))  # pyright: ignore[reportArgumentType]
        if last:
            del node.running[epoch]
            node.perform(node.machine.ended(epoch, self.now))

    def _die(self) -> None:
        number = self.rng.randrange(len(self.nodes))
        self.nodes[number].alive = False
        self.nodes[number] = Node(self, len(self._by_id))
        self._by_id[self.nodes[number].me] = self.nodes[number]

    # what is promised

    def fates(self) -> Counter[str]:
        return Counter(fate for caller in self.callers.values() for fate in caller.fates)

    def judge(self) -> None:
        """Whatever happened: each caller that stayed, at a replica that lived, has exactly one answer, and nothing is left over."""
        for caller in self.callers.values():
            if caller.left or not caller.replica.alive:
                assert len(caller.fates) <= 1, caller
                continue
            assert len(caller.fates) == 1, f"{caller.ticket} has {caller.fates or 'no answer'}"
            assert caller.merged <= 1, "a prompt is generated at most once merged"
            self._in_time(caller)
            if caller.fates == [BACK + "unclaimed"] and not self.weather.losses:
                assert not caller.merged, f"{caller.ticket} was taken out of a window, and is in its batch"
        for node in filter(lambda node: node.alive, self.nodes):
            assert node.machine.waiting == node.machine.windows == 0
            assert node.machine.next_due() is None
            kept = [node.machine._calls._calls, node.machine._joining, node.machine._opening, node.machine._guests._by_epoch]
            assert not any((*kept, node.machine._leading._led)), "something is left over of calls that are over"
            assert not node.running

    def _in_time(self, caller: Caller) -> None:
        assert caller.ended is not None
        took_s = caller.ended - caller.came
        window_s = caller.plan.max_wait_s + 2 * self.times.grace_s + 2 * self.weather.timeout_s
        fate = caller.fates[0]
        if fate == BACK + "unclaimed" and not self.weather.losses and not self.weather.lost_mail and not self.weather.late_mail:
            assert took_s <= window_s + _ROUNDING_S, f"{caller.ticket} waited {took_s} s for nothing"
        slack_s = self.lease_s + 3 * self.times.tick_s + self.times.patience_s + self.times.spread_s
        assert took_s <= window_s + _LONGEST_BATCH_S + slack_s, f"{caller.ticket} waited {took_s} s"

    def taken_back(self) -> Counter[str]:
        return Counter({fate: count for fate, count in self.fates().items() if fate.startswith(BACK)})


@dataclass(frozen=True)
class _Lesson:
    """Stands for a Completed: whose it is, is all that matters here."""

    id: Ticket
