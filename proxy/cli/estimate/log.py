"""A log of past calls, read line by line: whatever its size, one line is in memory at a time. Bad lines are counted, never quoted."""

from __future__ import annotations

import math
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

from proxy.cli.recorded import UnreadableError, call_of
from proxy.errors import BadRequestError
from proxy.model import Call, CallId, Json
from proxy.routes.body import parse_object

_LONGEST_LINE = 64 * 1024 * 1024
_NAMED_LINES = 20
_MILLISECONDS = 1e11
"""Seconds since 1970 reach this number in the year 5138; what is larger was meant as milliseconds."""


@dataclass(frozen=True, slots=True)
class Past:
    """One call of the log and when it came, in seconds since 1970 (or whenever the log's clock began)."""

    at: float
    call: Call = field(repr=False)


@dataclass(slots=True)
class Lines:
    """What was read so far."""

    read: int = 0
    """Lines that are not blank."""
    bad: int = 0
    named: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    """Number and fault of the first bad lines."""

    def fault(self, number: int, why: str) -> None:
        """Count one bad line."""
        self.bad += 1
        if len(self.named) < _NAMED_LINES:
            self.named.append((number, why))


@contextmanager
def opened(name: str) -> Generator[BinaryIO]:
    """Open a log (`-`: standard input); raises UnreadableError."""
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        file = Path(name).open("rb")  # noqa: SIM115 - closed below; only the opening may fail so
    except OSError as error:
        raise UnreadableError(f"{name}: {error.strerror}") from None
    with file:
        yield file


def past_calls(file: BinaryIO, lines: Lines) -> Iterator[Past]:
    """Yield the calls in the order of the lines, and count them in `lines`."""
    for number, line in enumerate(_lines(file), start=1):
        if line is not None and not line.strip():
            continue
        lines.read += 1
        try:
            yield _past(line, number)
        except UnreadableError as error:
            lines.fault(number, str(error).partition(": ")[2])


def _lines(file: BinaryIO, longest: int = _LONGEST_LINE) -> Iterator[bytes | None]:
    """Yield every line; None for one of `longest` bytes or more, which is read to its end in parts."""
    while line := file.readline(longest):
        part = line
        while len(part) == longest and not part.endswith(b"\n"):
            part = file.readline(longest)
        yield line if part is line else None


def _past(line: bytes | None, number: int) -> Past:
    place = f"line {number}"
    if line is None:
        raise UnreadableError(f"{place}: longer than any request")
    try:
        whole = parse_object(line)
    except BadRequestError:
        raise UnreadableError(f"{place}: no JSON object") from None
    at = _seconds(place, whole.pop("time", None))
    request: Any = whole.pop("request", whole)
    if not request or not isinstance(request, dict):
        raise UnreadableError(f"{place}: no request in it")
    return Past(at, call_of(place, cast("Json", request), CallId(f"line-{number}")))


def _seconds(place: str, time: Any) -> float:
    """Read a moment: seconds (or milliseconds) since 1970 as a number or text, or ISO 8601 (UTC where it names no zone)."""
    try:
        number = math.nan if isinstance(time, bool) else float(time)
    except (TypeError, ValueError, OverflowError):
        number = _iso(time)
    if not math.isfinite(number):
        raise UnreadableError(f"{place}: `time` must be seconds since 1970 or ISO 8601")
    return number / 1000 if abs(number) >= _MILLISECONDS else number


def _iso(time: Any) -> float:
    try:
        moment = datetime.fromisoformat(time)
    except (TypeError, ValueError):
        return math.nan
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
