"""A client's program that is running: takes cases, tells what came of each call; knows nothing of what should come of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

from tests.clients.clients import Client
from tests.clients.environments import command

WAIT_S = 30.0
_LONGEST_LINE = 2**20


@dataclass(frozen=True, slots=True)
class Case:
    """Calls of one way that start at once; `case` is unique in a program's life."""

    case: str
    way: str
    stream: bool
    url: str
    model: str
    calls: Sequence[Mapping[str, str | None]]
    """`word` and `user` of each."""
    retries: int = 0
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Result:
    """What a client made of one call: a lesson, a text, or an error's name."""

    lesson: Any = None
    tokens: int | None = None
    error: str | None = None
    status: int | None = None
    told: str = ""


@dataclass
class Driven:
    """A program and its open calls."""

    process: asyncio.subprocess.Process
    _open: dict[tuple[str, int], asyncio.Future[Result]] = field(default_factory=dict[tuple[str, int], "asyncio.Future[Result]"])

    def begin(self, case: Case) -> list[asyncio.Future[Result]]:
        """Start a case; return its calls' results to come."""
        results = [self._open.setdefault((case.case, call), asyncio.Future()) for call in range(len(case.calls))]
        self._write(asdict(case))
        return results

    async def run(self, case: Case) -> list[Result]:
        """Start a case and wait for all its calls; one that never ends has that as its error."""
        results = self.begin(case)
        await asyncio.wait(results, timeout=WAIT_S)
        return [result.result() if result.done() else Result(error="no end") for result in results]

    def leave(self, case: Case, calls: Sequence[int]) -> None:
        """Make calls of a case leave."""
        self._write({"leave": case.case, "calls": calls})

    def _write(self, line: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(orjson.dumps(line, default=list) + b"\n")

    async def listen(self) -> None:
        """Hand results out until the program ends; then whatever is open fails."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            told = orjson.loads(line)
            if "case" in told:
                self._open.pop((told.pop("case"), told.pop("call"))).set_result(Result(**told))
        for waiting in self._open.values():
            waiting.set_exception(AssertionError("the program ended"))


@asynccontextmanager
async def driven(client: Client) -> AsyncGenerator[Driven]:
    """Run a client's program; it has read its libraries when this returns."""
    how = command(client.environment, client.program)
    assert how is not None, f"the environment of {client.name} is not there: make clients"
    process = await asyncio.create_subprocess_exec(
        *how, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_LONGEST_LINE, env=_environ()
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(WAIT_S):
            assert orjson.loads(await process.stdout.readline()) == {"ready": True}
        program = Driven(process)
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(program.listen())
            try:
                yield program
            finally:
                listening.cancel()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def _environ() -> dict[str, str]:
    """Return the surroundings of a program: no coverage of ours, no settings of another account."""
    ours = ("COVERAGE_", "OPENAI_", "LANGCHAIN_", "LANGSMITH_", "PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}
