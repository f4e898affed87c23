"""An exception told without its words: which class, and where in the code; what it says may quote a prompt or a key."""

from __future__ import annotations

import traceback
from pathlib import PurePath

from proxy.model import CallId
from proxy.observe.events import Faulted

_FRAMES_TOLD = 16


def fault(where: str, error: BaseException, call_id: CallId | None = None) -> Faulted:
    """Return the event of `error`, caught at the border `where`."""
    return Faulted(where, kind(error), frames(error), call_id)


def kind(error: BaseException) -> str:
    """Return the exception's class, and that of what caused it."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return type(error).__qualname__ + (f" from {type(cause).__qualname__}" if cause is not None else "")


def frames(error: BaseException) -> tuple[str, ...]:
    """Return `file:line function` of the innermost frames, the innermost last; files by their last two names."""
    told = traceback.extract_tb(error.__traceback__)[-_FRAMES_TOLD:]
    return tuple(f"{'/'.join(PurePath(frame.filename).parts[-2:])}:{frame.lineno} {frame.name}" for frame in told)
