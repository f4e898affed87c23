"""The upstream body that lessons would become together, for `explain --merged`; nothing is sent."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.cli.providers import find
from proxy.lessons.merge import MergedBody, Unmergeable, merge
from proxy.model import Capability, Json, Lesson
from proxy.settings import Settings

_SEED = "explain"
"""The keys of the proxy's own batches differ from batch to batch; here the same files give the same body."""


class NotMergedError(Exception):
    """These lessons do not become one body; the message says why."""


def merged_body(lessons: Sequence[Lesson], settings: Settings) -> tuple[Json, str]:
    """Return the body, as it goes up the first time, and a line on where to; raises NotMergedError."""
    first = lessons[0]
    if len(lessons) > first.window.max_size:
        raise NotMergedError(f"a window holds {first.window.max_size} lessons: these would be several batches")
    try:
        found = find(first.model, settings)
    except ValueError as error:
        raise NotMergedError(str(error)) from None
    if found is None:
        raise NotMergedError(f"no entry of model_list answers to {first.model!r}")
    match merge(lessons, found.capability, seed=_SEED, carrier=first.merge.carrier):
        case MergedBody(body, carrier, _):
            others = f", the first of {found.deployments} deployments" if found.deployments > 1 else ""
            return {"model": found.model} | body | _streaming(found.capability), f"as {carrier} to {found.model}{others}"
        case Unmergeable(reason):
            raise NotMergedError(reason)


def _streaming(capability: Capability) -> Json:
    if not capability.stream:
        return {}
    return {"stream": True} | ({"stream_options": {"include_usage": True}} if capability.usage_in_stream else {})
