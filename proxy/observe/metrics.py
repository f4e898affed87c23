"""The Prometheus listener: counts what happened, in a registry of its own, with a bounded number of label values."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import assert_never, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from proxy.model import SITE_APP, Usage
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

_PREFIX = "lesson_proxy_"
_WAIT_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0, 5.0)
_CALL_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 45.0, 90.0)
_STORE_BUCKETS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
_MOST_VALUES = 64
"""Values of one label that come from outside the code; what comes after them is counted as `other`."""


class _Values:
    """The values that one label has had: so many, and then `other`."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def bounded(self, value: str) -> str:
        if value in self._seen:
            return value
        if len(self._seen) >= _MOST_VALUES:
            return "other"
        self._seen.add(value)
        return value


class Metrics:
    """The listener. `models` are the configured aliases: a model that is none of them is counted as `*`."""

    def __init__(self, models: Collection[str] = ()) -> None:
        self.registry = CollectorRegistry()
        self._models = frozenset(models)
        self._codes, self._reasons, self._checks, self._drops, self._rests = _Values(), _Values(), _Values(), _Values(), _Values()
        self._calls: dict[tuple[str, int, str], tuple[Counter, Histogram]] = {}
        self._define_calls()
        self._define_batches()
        self._define_sharing()
        self._merging_rested = self._counter(
            "merging_rested", "Times that merging was set to rest or made smaller.", "model", "scope", "reason"
        )
        self._merging_resumed = self._counter("merging_resumed", "Times that merging came back after a rest.", "model", "scope")
        self._states = self._counter("states", "Changes of the process's state.", "state")
        self._faults = self._counter("faults", "Faults of the proxy's own.", "where")
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def configure(self, models: Collection[str]) -> None:
        """Take the aliases of a new configuration, beside those that were counted before."""
        known = self._models | frozenset(models)
        self._models = known if len(known) <= _MOST_VALUES * 4 else frozenset(models)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read when it is asked for."""
        Gauge(_PREFIX + name, text, registry=self.registry).set_function(read)

    def render(self) -> tuple[bytes, str]:
        """Return the text of `GET /metrics` and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    def __call__(self, event: object) -> None:
        """Count one event of `observe.events`."""
        known = cast("Event", event)
        match known:
            case CallFinished():
                self._call(known)
            case BatchFinished():
                self._batch(known)
            case LessonWasted():
                self._thrown_away(known)
            case MergingRested() | MergingResumed():
                self._merging(known)
            case StateChanged():
                self._states.labels(known.state).inc()
            case WindowShared() | StoreAsked():
                self._sharing(known)
            case Faulted():
                self._faults.labels(known.where).inc()
            case _:
                assert_never(known)

    def _merging(self, event: MergingRested | MergingResumed) -> None:
        if isinstance(event, MergingRested):
            self._merging_rested.labels(self._alias(event.model), _scope(event), self._rests.bounded(event.reason)).inc()
        else:
            self._merging_resumed.labels(self._alias(event.model), _scope(event)).inc()

    def _define_sharing(self) -> None:
        self._led = self._counter("windows_led", "Batches of shared windows that were opened here.")
        self._led_for_others = self._counter("lessons_led_for_others", "Lessons of other processes in these.")
        self._joined_elsewhere = self._counter("calls_joined_elsewhere", "Calls that waited in another process's window.")
        self._taken_back = self._counter("calls_taken_back", "Calls that a shared window did not serve, by reason.", "reason")
        self._late = self._counter("outcomes_late", "Outcomes that came after their call was taken back, and were dropped.")
        self._store_seconds = self._histogram("store_seconds", "Round trips to Redis.", _STORE_BUCKETS_S)
        self._store_commands = self._counter("store_commands", "Commands that went to Redis.")

    def _define_calls(self) -> None:
        self._calls_total = self._counter("calls", "Calls by the way they were answered.", "way", "status", "model")
        self._call_seconds = self._histogram("call_seconds", "From a call's body to the end of its answer.", _CALL_BUCKETS_S, "way")
        self._wait_seconds = self._histogram("wait_seconds", "Time of lesson calls in the window.", _WAIT_BUCKETS_S)
        self._single = self._counter("lessons_single", "Lesson calls that were not merged, by reason.", "reason")
        self._resent = self._counter("resent", "Lessons that their batch did not bring and that went alone, by reason.", "reason")
        self._would_merge = self._counter("would_merge", "Lesson calls that a dry run or a share kept from merging.")
        told = self._counter("tokens", "Tokens that callers were told of.", "direction")
        self._told_input, self._told_output = told.labels("input"), told.labels("output")

    def _define_batches(self) -> None:
        self._batches = self._counter("batches", "Batches by size and by what closed their window.", "size", "closed_by")
        self._batch_seconds = self._histogram("batch_seconds", "From a batch's sealing to its last lesson.", _CALL_BUCKETS_S)
        self._first_token = self._histogram("first_token_seconds", "From a batch's sealing to upstream's first token.", _CALL_BUCKETS_S)
        self._completed = self._counter("batch_lessons_completed", "Lessons that came out of batches.")
        self._failed = self._counter("batch_lessons_failed", "Lessons of batches that failed, by check or by what upstream did.", "reason")
        self._left = self._counter("batch_lessons_left", "Lessons of batches whose callers left.")
        self._refused = self._counter("batch_lessons_refused", "Lessons of batches that got upstream's error for the whole.")
        self._dropped = self._counter("batch_entries_dropped", "Entries of batches that were thrown away, by reason.", "reason")
        self._batch_errors = self._counter("batch_errors", "Batches that upstream ended with an error, by its code.", "code")
        self._retries = self._counter("batch_retries", "Times a batch was sent again.")
        tokens = self._counter("batch_tokens", "Tokens of merged calls, as upstream counted them.", "direction")
        self._batch_input, self._batch_output = tokens.labels("input"), tokens.labels("output")
        self._wasted = self._counter("tokens_wasted", "Completion tokens of batches that nobody got (estimated).")
        self._ahead_wasted = self._counter("ahead_wasted", "Lessons that were asked for ahead and that no call came for.")
        # these may fall: a batch whose lessons go alone after all costs more than it saves, and estimates may be too high
        self._saved_usd = Gauge(
            _PREFIX + "saved_usd",
            "Money that merging saved, net of resends and of output that nobody got; models without a known price left out.",
            registry=self.registry,
        )
        self._saved = Gauge(_PREFIX + "input_tokens_saved", "Net input tokens that merging saved.", registry=self.registry)
        unassigned = Gauge(
            _PREFIX + "tokens_unassigned",
            "Tokens of batches less the shares that callers were told.",
            ["direction"],
            registry=self.registry,
        )
        self._unassigned_input, self._unassigned_output = unassigned.labels("input"), unassigned.labels("output")

    def _call(self, event: CallFinished) -> None:
        calls, seconds = self._children(event)
        calls.inc()
        seconds.observe(event.total_ms / 1000)
        if event.usage:
            self._told(event.usage)
        if event.rule is not None:
            self._lesson(event)

    def _children(self, event: CallFinished) -> tuple[Counter, Histogram]:
        """Return the bound counters of this kind of call: binding costs more than counting."""
        kind = (event.way, event.status // 100, self._alias(event.model))
        bound = self._calls.get(kind)
        if bound is None:
            bound = (self._calls_total.labels(event.way, f"{kind[1]}xx", kind[2]), self._call_seconds.labels(event.way))
            self._calls[kind] = bound
        return bound

    def _lesson(self, event: CallFinished) -> None:
        if event.key is not None:
            self._wait_seconds.observe(event.wait_ms / 1000)
        if event.would_merge:
            self._would_merge.inc()
        reason = self._reasons.bounded(event.reason or "none")
        if event.way == "resent":
            self._resent.labels(reason.removeprefix("resent:")).inc()
        elif event.way != "merged":
            self._single.labels(reason).inc()

    def _batch(self, event: BatchFinished) -> None:
        self._batches.labels(str(event.size), event.closed_by).inc()
        self._batch_seconds.observe(event.total_s)
        if event.first_token_s is not None:
            self._first_token.observe(event.first_token_s)
        self._completed.inc(event.completed)
        self._refused.inc(event.refused)
        self._left.inc(event.left)
        self._retries.inc(event.retries)
        for reason, count in event.failed:
            self._failed.labels(self._checks.bounded(reason)).inc(count)
        for reason, count in event.dropped:
            self._dropped.labels(self._drops.bounded(reason)).inc(count)
        if event.error:
            self._batch_errors.labels(self._codes.bounded(event.error)).inc()
        self._spent(event)

    def _spent(self, event: BatchFinished) -> None:
        self._batch_input.inc(event.usage.prompt)
        self._batch_output.inc(event.usage.completion)
        self._wasted.inc(event.wasted_completion)
        self._saved.inc(event.input_tokens_saved)
        self._saved_usd.inc(event.saved_usd or 0.0)
        self._unassigned_input.inc(event.unassigned.prompt)
        self._unassigned_output.inc(event.unassigned.completion)

    def _thrown_away(self, event: LessonWasted) -> None:
        """Take back what its batch counted for it."""
        self._ahead_wasted.inc()
        self._wasted.inc(event.usage.completion)
        self._saved.inc(event.input_tokens_saved)
        self._saved_usd.inc(event.saved_usd or 0.0)
        self._unassigned_input.inc(event.usage.prompt)
        self._unassigned_output.inc(event.usage.completion)

    def _sharing(self, event: WindowShared | StoreAsked) -> None:
        match event:
            case StoreAsked(commands, seconds):
                self._store_seconds.observe(seconds)
                self._store_commands.inc(commands)
            case WindowShared("led"):
                self._led.inc()
                self._led_for_others.inc(event.others)
            case WindowShared("joined_elsewhere"):
                self._joined_elsewhere.inc()
            case WindowShared("taken_back", reason):
                self._taken_back.labels(reason).inc()
            case WindowShared():
                self._late.inc()
            case _:
                assert_never(event)

    def _told(self, usage: Usage) -> None:
        self._told_input.inc(usage.prompt)
        self._told_output.inc(usage.completion)

    def _alias(self, model: str) -> str:
        return model if model in self._models else "*"

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(_PREFIX + name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(_PREFIX + name, text, labels, buckets=buckets, registry=self.registry)


def _scope(event: MergingRested | MergingResumed) -> str:
    """Sites are too many to be labels; the log names them."""
    if event.site is None:
        return "model"
    return "site" if len(event.site) > SITE_APP else "app"
