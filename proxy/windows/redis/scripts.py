"""Commands as calls of the Lua scripts, and what the scripts answer as replies; it knows no connection."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import assert_never, cast

import orjson

from proxy.model import BatchKey, Closed
from proxy.windows.entrants import wait_bound_s
from proxy.windows.protocol import (
    Abandon,
    Beat,
    Beaten,
    Claim,
    Claimed,
    Command,
    Done,
    Drained,
    Due,
    Entry,
    Epoch,
    Join,
    Kept,
    Message,
    Ready,
    ReplicaId,
    Reply,
    Seated,
    Settle,
    Slot,
    Standing,
    Thinned,
    Ticket,
    Turned,
    Void,
    Watch,
    Where,
    Withdraw,
)

PREFIX = "lesson-proxy:"
"""How every key and channel begins: what an ACL must allow is `~lesson-proxy:* &lesson-proxy:*`."""
CHANNEL = PREFIX + "replica:"
"""A replica's channel, with its id behind it."""

Arg = str | bytes | int
_SCRIPTS = {Join: "join", Claim: "claim", Withdraw: "withdraw", Abandon: "abandon", Beat: "beat", Settle: "settle", Watch: "watch"}


@dataclass(frozen=True, slots=True)
class Script:
    """One script: its text, and the name by which a server that has it runs it."""

    text: str
    sha: str


class Scripts:
    """The scripts for one lease and keeping time (milliseconds). `name` gives what stands for a batch key in names."""

    def __init__(self, *, lease_ms: int, keep_ms: int, name: Callable[[BatchKey], str]) -> None:
        constants = f"local KEEP_MS, LEASE_MS, CHANNEL = {keep_ms}, {lease_ms}, '{CHANNEL}'\n"
        folder = files("proxy.windows") / "scripts"
        head = constants + (folder / "prelude.lua").read_text()
        self._scripts = {kind: _script(head + (folder / f"{file}.lua").read_text()) for kind, file in _SCRIPTS.items()}
        self._name = name

    def script(self, command: Command) -> Script:
        """Return the script that carries this command out."""
        return self._scripts[type(command)]

    def head(self, command: Command) -> str:
        """Return the one key that the script is given; what else it touches lies in the same hash slot."""
        return f"{PREFIX}{{{self._name(command.key)}}}"


def _script(text: str) -> Script:
    return Script(text, hashlib.sha1(text.encode()).hexdigest())  # noqa: S324 - how servers name scripts


def arguments(command: Command) -> Sequence[Arg]:
    """Return what the script is told; outcomes and lessons must be bytes already."""
    match command:
        case Join():
            return _join_arguments(command)
        case Claim():
            return (command.epoch, command.leader, command.closed_by)
        case Withdraw():
            return (command.epoch, command.id, int(command.leave))
        case Abandon() | Beat():
            return (command.epoch, command.leader)
        case Settle():
            return (command.epoch, command.id, command.owner, command.payload)
        case Watch():
            return (command.epoch, command.id)
        case _:
            assert_never(command)


def _join_arguments(join: Join) -> Sequence[Arg]:
    plan = join.plan
    told = {
        "bound": wait_bound_s(plan),
        "wait": plan.max_wait_s,
        "size": plan.max_size,
        "expect": plan.expect,
        "lesson": plan.lesson_s,
        # no bound is null in JSON, which leaves it out
        "added": plan.max_added_s if plan.max_added_s != float("inf") else None,
        "tokens": plan.tokens,
        "limit": plan.max_tokens,
        "streaming": plan.streaming,
        "deadline": plan.deadline_s,
        "idle": plan.idle_s,
    }
    return (
        join.id,
        join.owner,
        join.epoch,
        join.identity_digest,
        int(join.deterministic),
        join.payload,
        "" if join.valid_until is None else repr(join.valid_until),
        orjson.dumps({name: value for name, value in told.items() if value is not None}),
    )


def reply_of(answer: Sequence[bytes]) -> tuple[float, Reply]:
    """Return the server's clock and the reply; raises ValueError for what no script of ours answers."""
    now, kind, *rest = answer
    read = _REPLIES.get(kind.decode())
    if read is None:
        raise ValueError("an answer of a kind that no script gives")
    return float(now), read(rest)


def _seated(parts: Sequence[bytes]) -> Reply:
    epoch, leader, closes_in_s, bound_in_s, *shut = (part.decode() for part in parts)
    return Seated(Epoch(epoch), ReplicaId(leader), float(closes_in_s), float(bound_in_s), tuple(map(Epoch, shut)))


def _turned(parts: Sequence[bytes]) -> Reply:
    reason, *shut = (part.decode() for part in parts)
    return Turned(reason, tuple(map(Epoch, shut)))


def _drained(parts: Sequence[bytes]) -> Reply:
    closed_by, *rest = parts
    threes = zip(rest[::3], rest[1::3], rest[2::3], strict=True)
    entries = tuple(Entry(Ticket(ticket.decode()), ReplicaId(owner.decode()), payload) for ticket, owner, payload in threes)
    return Drained(entries, cast("Closed", closed_by.decode()))


def _standing(parts: Sequence[bytes]) -> Reply:
    (where,) = parts
    return Standing(cast("Where", where.decode()))


_REPLIES: dict[str, Callable[[Sequence[bytes]], Reply]] = {
    "seated": _seated,
    "turned": _turned,
    "drained": _drained,
    "void": lambda _: Void(),
    "beaten": lambda left: Beaten(frozenset(Ticket(ticket.decode()) for ticket in left)),
    "kept": lambda parts: Kept(parts[0] == b"1"),
    "slot": lambda parts: Slot(parts[0]),
    "standing": _standing,
    "done": lambda _: Done(),
}


def message_of(data: bytes) -> Message | None:
    """Return a message that was published; None: it is none of ours."""
    match data.decode("utf-8", "replace").split(" "):
        case ["due", epoch, in_s] if _is_number(in_s):
            return Due(Epoch(epoch), float(in_s))
        case ["claimed", epoch]:
            return Claimed(Epoch(epoch))
        case ["ready", ticket]:
            return Ready(Ticket(ticket))
        case ["thinned", epoch]:
            return Thinned(Epoch(epoch))
        case _:
            return None


def _is_number(text: str) -> bool:
    try:
        number = float(text)
    except ValueError:
        return False
    return number == number  # noqa: PLR0124 - not NaN
