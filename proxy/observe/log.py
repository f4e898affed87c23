"""The log: one line an event, JSON or for the eye, each with a greppable `action`; it prints ids, sizes, counts and reasons only."""

from __future__ import annotations

import asyncio
import logging
import sys
from datetime import UTC, datetime
from typing import Any, BinaryIO, Literal, Self, TextIO, assert_never, cast

import orjson
import structlog
from structlog.typing import Processor

from proxy.model import Usage
from proxy.observe.events import (
    BatchFinished,
    CallFinished,
    Event,
    Faulted,
    LessonWasted,
    MergingRested,
    MergingResumed,
    StateChanged,
    StoreAsked,
    WindowShared,
)
from proxy.observe.faults import frames, kind

Form = Literal["json", "console"]
Level = Literal["debug", "info", "warning", "error"]
Fields = dict[str, Any]

_SERVER_ERROR = 500
_LEVELS = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error", logging.CRITICAL: "critical"}
_FAILURES = ("reload_refused", "start_failed")
_WARNINGS = ("danger", "sharing_lost", "worker_lost")
_LONGEST = 300
# their records quote requests, keys and answers
_SILENCED = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy", "openai", "httpx", "httpcore")
_QUIETENED = ("uvicorn", "uvicorn.error", "asyncio", "aiohttp")


class Log:
    """The listener that writes lines of at least `level` to `stream`."""

    def __init__(self, stream: TextIO, *, form: Form = "json", level: Level = "info") -> None:
        least = logging.getLevelNamesMapping()[level.upper()]
        self._log = _JsonLines(stream.buffer, least) if form == "json" else _console_logger(stream, least)

    @classmethod
    def of_process(cls, form: Literal["auto", "json", "console"], level: Level) -> Self:
        """Return the log of this process: on its error output, for the eye where that is a terminal."""
        return cls(sys.stderr, form=("console" if sys.stderr.isatty() else "json") if form == "auto" else form, level=level)

    def __call__(self, event: object) -> None:
        """Write one event of `observe.events`."""
        known = cast("Event", event)
        match known:
            case CallFinished():
                emit = self._log.warning if known.status >= _SERVER_ERROR else self._log.info
                emit("call", **_call(known))
            case BatchFinished():
                emit = self._log.warning if known.error else self._log.info
                emit("batch", **_batch(known))
            case LessonWasted():
                self._log.info("wasted", model=_shown(known.model), **_usage(known.usage, estimated=True))
            case MergingRested() | MergingResumed():
                self._merging(known)
            case StateChanged():
                level = "error" if known.state in _FAILURES else "warning" if known.state in _WARNINGS else "info"
                getattr(self._log, level)("state", state=known.state, **({"detail": known.detail} if known.detail else {}))
            case WindowShared() | StoreAsked():
                # told in the lines of their calls and batches
                pass
            case Faulted():
                self._log.error("fault", where=known.where, kind=known.kind, frames=known.frames, call=known.call_id)
            case _:
                assert_never(known)

    def _merging(self, event: MergingRested | MergingResumed) -> None:
        if isinstance(event, MergingRested):
            self._log.warning("rested", **_whose(event), reason=event.reason, seconds=event.seconds, max_size=event.max_size)
        else:
            self._log.info("resumed", **_whose(event))

    def adopt_stdlib(self) -> None:
        """Write what the libraries log through the same lines, and silence those whose records quote requests."""
        logging.basicConfig(handlers=[_Foreign(self._log)], level=logging.WARNING, force=True)
        for name in _QUIETENED:
            logging.getLogger(name).setLevel(logging.WARNING)
        for name in _SILENCED:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)


class _Foreign(logging.Handler):
    """Writes a library's record: its first line, and of an exception everything but its words."""

    def __init__(self, log: Any) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        message = record.getMessage().strip().partition("\n")[0][:_LONGEST]
        error = record.exc_info[1] if record.exc_info else None
        told: Fields = {"kind": kind(error), "frames": frames(error)} if error else {}
        self._log.log(record.levelno, "library", source=record.name, message=message, **told)


class _JsonLines:
    """Writes a line at once, as structlog's loggers are asked to: it is on every call's way, and their chain costs twice as much.

    Lines of one turn of the loop go out together, at its end.
    """

    def __init__(self, stream: BinaryIO, least: int) -> None:
        self._stream = stream
        self._least = least
        self._lines: list[bytes] = []
        """Of this turn: a stream need not have a buffer of its own."""
        self._flushed_by: asyncio.AbstractEventLoop | None = None

    def log(self, level: int, action: str, **fields: Any) -> None:
        """Write one line; `level` is a number of `logging`'s."""
        if level < self._least:
            return
        head: Fields = {"time": datetime.now(UTC), "level": _LEVELS.get(level, "info"), "action": action}
        head.update(fields)
        self._lines.append(orjson.dumps(head, default=str, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE))
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._flush()
            return
        if self._flushed_by is not loop:
            self._flushed_by = loop
            loop.call_soon(self._flush)

    def info(self, action: str, **fields: Any) -> None:
        """Write one line of this level; as the two below."""
        self.log(logging.INFO, action, **fields)

    def warning(self, action: str, **fields: Any) -> None:
        """Write a warning."""
        self.log(logging.WARNING, action, **fields)

    def error(self, action: str, **fields: Any) -> None:
        """Write an error."""
        self.log(logging.ERROR, action, **fields)

    def _flush(self) -> None:
        self._flushed_by = None
        lines, self._lines = self._lines, []
        self._stream.write(b"".join(lines))
        self._stream.flush()


def _console_logger(stream: TextIO, least: int) -> Any:
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False, key="time"),
        structlog.processors.EventRenamer("action"),
        structlog.dev.ConsoleRenderer(colors=stream.isatty(), event_key="action", timestamp_key="time", pad_event_to=8),
    ]
    return structlog.wrap_logger(
        structlog.PrintLogger(stream), processors, wrapper_class=structlog.make_filtering_bound_logger(least)
    ).bind()


def _whose(event: MergingRested | MergingResumed) -> Fields:
    return {"model": _shown(event.model)} | ({"site": event.site} if event.site is not None else {})


def _call(event: CallFinished) -> Fields:
    fields: Fields = {
        "call": event.call_id,
        "path": _shown(event.path),
        "model": _shown(event.model),
        "status": event.status,
        "way": event.way,
        "total_ms": round(event.total_ms, 1),
    }
    error = event.error if event.error != event.reason else None
    told = {"reason": event.reason, "error": error, "stream": event.stream, "key_name": event.key_name}
    fields |= {name: value for name, value in told.items() if value}
    if event.usage:
        fields |= _usage(event.usage, estimated=event.estimated)
    if event.rule:
        fields |= {"rule": event.rule, "key": event.key, "wait_ms": round(event.wait_ms, 1)}
        if event.would_merge:
            fields["would_merge"] = True
        if event.batch_id:
            fields |= {"batch": event.batch_id, "batch_size": event.batch_size, "input_tokens_saved": event.input_tokens_saved}
    return fields


def _batch(event: BatchFinished) -> Fields:
    fields: Fields = {
        "batch": event.batch_id,
        "model": _shown(event.model),
        "deployment": event.deployment,
        "provider": event.provider,
        "carrier": event.carrier,
        "closed_by": event.closed_by,
        "size": event.size,
        "completed": event.completed,
        "total_s": round(event.total_s, 3),
        "first_token_s": None if event.first_token_s is None else round(event.first_token_s, 3),
        **_usage(event.usage, estimated=event.usage_estimated),
        "unassigned_prompt": event.unassigned.prompt,
        "unassigned_completion": event.unassigned.completion,
        "wasted_completion": event.wasted_completion,
        "input_tokens_saved": event.input_tokens_saved,
        "saved_usd": None if event.saved_usd is None else round(event.saved_usd, 8),
    }
    rare = {
        "failed": dict(event.failed),
        "dropped": dict(event.dropped),
        "refused": event.refused,
        "left": event.left,
        "retries": event.retries,
        "error": event.error,
    }
    return fields | {name: value for name, value in rare.items() if value}


def _shown(text: str) -> str:
    """Return what a caller wrote so that a terminal shows it and does nothing else."""
    shown = text[:_LONGEST]
    return shown if shown.isprintable() else shown.encode("unicode_escape").decode()


def _usage(usage: Usage, *, estimated: bool) -> Fields:
    told: Fields = {"prompt_tokens": usage.prompt, "completion_tokens": usage.completion}
    if usage.reasoning:
        told["reasoning_tokens"] = usage.reasoning
    if usage.cached:
        told["cached_tokens"] = usage.cached
    if estimated:
        told["estimated"] = True
    return told
