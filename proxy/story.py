"""What is told of one call: to its caller in headers, and to the listeners when it ends. It decides nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from proxy.model import Call, Lesson, Merged, Usage
from proxy.observe.events import CallFinished


@dataclass(slots=True)
class Story:
    """Grows while the call goes its way. Times are of the batcher's clock, in seconds."""

    started_s: float
    reason: str | None = None
    error: str | None = None
    rule: str | None = None
    way: Literal["merged", "resent", "alone", "passed", "refused"] = "passed"
    lesson: Lesson | None = None
    wait_s: float = 0.0
    batch: Merged | None = None
    usage: Usage | None = None
    estimated: bool = False
    saved: int = 0
    spent: Usage = field(default_factory=Usage)

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Return the `x-lesson-*` headers; none for what never looked like a lesson."""
        if self.rule is None:
            return ()
        headers = [("x-lesson-merged", "true" if self.way == "merged" else "false")]
        if self.reason:
            headers.append(("x-lesson-reason", self.reason))
        if self.batch:
            headers += [("x-lesson-batch-id", self.batch.batch_id), ("x-lesson-batch-size", str(self.batch.size))]
        if self.lesson:
            headers.append(("x-lesson-wait-ms", str(round(self.wait_s * 1000))))
            if self.way == "merged" and not self.lesson.stream:
                headers.append(("x-lesson-input-tokens-saved", str(self.saved)))
        return tuple(headers)

    def finished(self, call: Call, status: int, now: float) -> CallFinished:
        """Return the event of the call's end."""
        lesson = self.lesson
        return CallFinished(
            call_id=call.id,
            path=call.path,
            model=lesson.model if lesson else alias_of(call),
            status=status,
            way=self.way,
            reason=self.reason,
            error=self.error,
            rule=self.rule,
            would_merge=lesson is not None and lesson.mode != "on",
            stream=call.body.get("stream") is True,
            key=lesson.key[:12] if lesson else None,
            key_name=call.caller.name,
            batch_id=self.batch.batch_id if self.batch else None,
            batch_size=self.batch.size if self.batch else 0,
            wait_ms=self.wait_s * 1000,
            total_ms=(now - self.started_s) * 1000,
            usage=self.usage,
            estimated=self.estimated,
            input_tokens_saved=self.saved,
        )


def alias_of(call: Call) -> str:
    """Return where a call goes that is no lesson."""
    return call.alias or str(call.body.get("model", ""))
