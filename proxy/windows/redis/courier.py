"""Carries commands to the store in the order in which they come, and their replies back; notices when that is not to be had.

All commands of one turn of the loop go in one round trip, up to a bound, and one round trip is under way at a time. What
is routine (a replica has it for all its batches with the same tick) goes after the rest. What takes longer than
`timeout_s` has failed. After the first failure the store counts as down: everything fails at once, without being sent,
until a probe that does what calls do has worked again. Runs in a task of its own: no caller's cancellation reaches the
connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from redis.exceptions import NoScriptError

from proxy.model import BatchKey, Plan
from proxy.windows.notices import Notice, RoundTrip, StoreDown, StoreUp
from proxy.windows.protocol import Claim, Command, Drained, Epoch, Join, ReplicaId, Reply, Seated, Ticket
from proxy.windows.redis.clock import StoreClock
from proxy.windows.redis.link import Client, ready
from proxy.windows.redis.scripts import Scripts, arguments, reply_of

_AT_ONCE = 32
"""Commands of one round trip at most: each must be done in the time that one command is given, also on a busy machine."""
_ROUTINE_AT_LEAST = 8
"""So many of them are kept for what is routine, where that waits: calls without end must not let a lease run out."""
_MOST_QUEUED = 20_000
_PROBE_S = 1.0
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 8.0
_STEADY_S = 10.0
"""A store that fails again within so long is asked less and less often."""


class Courier:
    """One replica's way to the store.

    `answered` is told each command's reply once (None: it failed); `tell` whether the store is up, and each round trip.
    """

    def __init__(
        self,
        *,
        connect: Callable[[], Client],
        scripts: Scripts,
        me: ReplicaId,
        timeout_s: float,
        answered: Callable[[Command, Reply | None], None],
        tell: Callable[[Notice], None],
    ) -> None:
        self._connect = connect
        self._client = connect()
        self._scripts = scripts
        self._me = me
        self._timeout_s = timeout_s
        self._answered = answered
        self._tell = tell
        self._queue: deque[Command] = deque()
        self._routine: deque[Command] = deque()
        self._pending = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._clock = StoreClock(timeout_s)
        self._pause_s = _FIRST_PAUSE_S
        self._up_since = float("-inf")
        self._tasks: list[asyncio.Task[None]] = []
        self.up = asyncio.Event()

    def open(self) -> None:
        """Begin to try to reach the store."""
        self._tasks = [asyncio.create_task(self._run(), name="redis courier"), asyncio.create_task(self._probe(), name="redis probe")]

    def send(self, command: Command, *, routine: bool = False) -> None:
        """Queue a command; where the store is down its failure is told with the loop's next turn."""
        queue = self._routine if routine else self._queue
        if not self.up.is_set() or len(queue) >= _MOST_QUEUED:
            asyncio.get_running_loop().call_soon(self._answered, command, None)
            return
        queue.append(command)
        self._pending.set()
        self._idle.clear()

    async def aclose(self, patience_s: float) -> None:
        """Carry what is queued, for so long; then end."""
        if self.up.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._idle.wait()
        self.up.clear()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._fail_all()
        await _closed(self._client)

    async def _run(self) -> None:
        while True:
            await self._pending.wait()
            commands = self._next()
            if not self._queue and not self._routine:
                self._pending.clear()
            try:
                replies = await self._carry(commands, self._timeout_s)
            except asyncio.CancelledError:
                self._tell_all(commands, [None] * len(commands))
                raise
            self._tell_all(commands, replies)
            if not self.up.is_set():
                self._fail_all()
            if not self._queue and not self._routine:
                self._idle.set()

    def _next(self) -> list[Command]:
        calls = _first(self._queue, _AT_ONCE - min(len(self._routine), _ROUTINE_AT_LEAST))
        return [*calls, *_first(self._routine, _AT_ONCE - len(calls))]

    def _tell_all(self, commands: Sequence[Command], replies: Sequence[Reply | None]) -> None:
        for command, reply in zip(commands, replies, strict=True):
            self._answered(command, reply)

    async def _carry(self, commands: Sequence[Command], timeout_s: float) -> Sequence[Reply | None]:
        """Make one round trip; whatever fails in it takes the store down."""
        loop = asyncio.get_running_loop()
        sent = loop.time()
        task = asyncio.create_task(self._pipelined([self._dated(command, sent) for command in commands]))
        try:
            answers = await _within(task, timeout_s)
        except Exception as error:  # noqa: BLE001 - the border to redis-py: whatever it raises, the store can't be had
            await _ended(task)
            self._went_down(_cause(error))
            return [None] * len(commands)
        except asyncio.CancelledError:
            await _ended(task)
            raise
        self._tell(RoundTrip(len(commands), loop.time() - sent))
        return self._read(answers, loop.time())

    async def _pipelined(self, commands: Sequence[Command]) -> list[Any]:
        answers = await self._execute([("EVALSHA", self._scripts.script(command).sha, command) for command in commands])
        unknown = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            # a server that was restarted or flushed has not begun with these: the whole text is sent once
            again = await self._execute([("EVAL", self._scripts.script(commands[i]).text, commands[i]) for i in unknown])
            for i, answer in zip(unknown, again, strict=True):
                answers[i] = answer
        return answers

    async def _execute(self, calls: Sequence[tuple[str, str, Command]]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for word, script, command in calls:
            pipeline.execute_command(word, script, 1, self._scripts.head(command), *arguments(command))
        return await pipeline.execute(raise_on_error=False)

    def _read(self, answers: Sequence[Any], received: float) -> list[Reply | None]:
        replies: list[Reply | None] = []
        for answer in answers:
            try:
                now, reply = reply_of(_raised(answer))
            except Exception as error:  # noqa: BLE001 - an error of the server's, or an answer that no script of ours gives
                self._went_down(_cause(error))
                replies.append(None)
            else:
                self._clock.learn(now, received)
                replies.append(reply)
        return replies

    def _dated(self, command: Command, sent: float) -> Command:
        """Tell the store until when a call is still waited for: a stalled server carries out what it was sent long ago."""
        if not isinstance(command, Join):
            return command
        return replace(command, valid_until=self._clock.shows(sent + self._timeout_s))

    def _went_down(self, why: str) -> None:
        if not self.up.is_set():
            return
        self.up.clear()
        now = asyncio.get_running_loop().time()
        steady = now - self._up_since > _STEADY_S
        self._pause_s = _FIRST_PAUSE_S if steady else min(self._pause_s * 2, _LONGEST_PAUSE_S)
        self._tell(StoreDown(why))
        self._tasks[1] = asyncio.create_task(self._probe(), name="redis probe")

    def _fail_all(self) -> None:
        queued = [*self._queue, *self._routine]
        self._queue.clear()
        self._routine.clear()
        self._pending.clear()
        self._idle.set()
        for command in queued:
            self._answered(command, None)

    async def _probe(self) -> None:
        """Try until the store does what calls will ask of it."""
        told = ""
        while True:
            why = await self._tried()
            if why is None:
                self._up_since = asyncio.get_running_loop().time()
                self.up.set()
                self._tell(StoreUp())
                return
            if not told and self._up_since == float("-inf"):
                self._tell(StoreDown(why))
            told = why
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
            await _closed(self._client)
            self._client = self._connect()

    async def _tried(self) -> str | None:
        """Open and claim a window that nobody else knows; return why that did not work, or None."""
        key, epoch = BatchKey(f"probe {self._me}"), Epoch("probe")
        join = Join(key, Ticket("probe"), self._me, epoch, Plan(max_wait_s=1.0, max_size=2), "")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_PROBE_S):
                await ready(self._client)
                answers = await self._pipelined([join, Claim(key, epoch, self._me, "time")])
            received = loop.time()
            moments, replies = zip(*(reply_of(_raised(answer)) for answer in answers), strict=True)
        except Exception as error:  # noqa: BLE001 - the border to redis-py, as above
            return _cause(error)
        self._clock.learn(moments[-1], received)
        return None if [type(reply) for reply in replies] == [Seated, Drained] else "unexpected answers"


def _first(queue: deque[Command], number: int) -> list[Command]:
    return [queue.popleft() for _ in range(min(len(queue), number))]


def _raised(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise answer
    return answer


def _cause(error: BaseException) -> str:
    """Return what happened in a word or two: never what a server said, which may quote a command."""
    code = str(error).split(" ", 1)[0]
    return f"{type(error).__name__} {code}" if code.isupper() and code.isalpha() else type(error).__name__


async def _within(task: asyncio.Task[list[Any]], timeout_s: float) -> list[Any]:
    await asyncio.wait({task}, timeout=timeout_s)
    for _ in range(2):
        # a loop that was busy itself finds the timer and the reply at once: the reply counts
        if not task.done():
            await asyncio.sleep(0)
    if not task.done():
        raise TimeoutError
    return task.result()


async def _ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


async def _closed(client: Client) -> None:
    # a connection that can't be closed in good order is closed all the same
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_PROBE_S):
            await client.aclose()
