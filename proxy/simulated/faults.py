"""Every way in which the provider can be told to fail, chosen by the model's name; knows nothing of how it is done.

A model name `<anything>+<fault>` fails so. `@batch` behind it: only where several things are asked for in one request
(one property, or one keyed array item, a thing); `@all`: on every request; `@first`: only on the first request that names this
model. Without any of them the scope of the table below holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Scope = Literal["batch", "all", "first"]

_TABLE = """
| fault | scope | what happens |
|---|---|---|
| missing | batch | one entry is left out |
| doubled | batch | one entry comes twice, with different contents |
| unknown | batch | an entry that nobody asked for stands among them |
| reordered | batch | entries come in reverse order |
| invalid | batch | the last entry breaks its schema |
| short | batch | every entry but the first has only a few words |
| crossed | batch | right keys, exchanged contents |
| array | batch | an array of keyed items where an object was asked for, or the other way round |
| unkeyed | batch | an array of entries without keys |
| stringified | batch | the entries' container is a string of JSON |
| wrong_types | batch | every field has another type than asked for |
| cut_off | batch | the text stops before its end, finish_reason `length` |
| text | batch | the JSON comes as content instead of the tool call |
| fenced | batch | as `text`, between prose and a Markdown fence |
| prose | batch | a lesson in prose, no JSON at all |
| leaked | batch | the tool call's own markup comes as content |
| parallel | batch | one tool call an entry, all with index 0 |
| double_encoded | batch | the whole answer is a string of JSON |
| empty | batch | a choice without content |
| no_choices | batch | no choices at all |
| refusal | batch | `refusal` in place of content |
| content_filter | batch | finish_reason `content_filter`, no content |
| whole | all | a stream brings the whole text in one chunk |
| no_usage | all | a stream ends without usage, asked for or not |
| zero_usage | all | usage says 0 everywhere |
| 429 | all | 429 with `Retry-After: 1` |
| 429_once | all | as `429` for the first request of each body |
| 429_too_large | all | 429 that calls the request too large for the rate |
| quota | all | 429 `insufficient_quota` |
| 400 | all | 400 |
| 401 | all | 401 |
| 403 | all | 403 |
| 413 | all | 413 |
| context_length | all | 400 `context_length_exceeded` |
| tool_use_failed | batch | 400 with the model's text in `failed_generation`, one entry of it invalid |
| 500 | all | 500 |
| 500_once | all | as `500` for the first request of each body |
| 503 | all | 503 |
| html | all | 502 with a page of HTML |
| redirect | all | 307 to `/redirected` on this host |
| empty_200 | all | 200 without a body |
| garbage | all | 200 with what is neither JSON nor events |
| slow_first | all | nothing comes until the client leaves |
| stall | all | the answer stops in its middle until the client leaves |
| broken | all | the connection is reset in the middle |
| half | all | a stream ends cleanly in its middle, without a finish_reason |
| stream_error | all | a stream brings an error object in its middle |
| huge | all | some megabytes of text without an end, finish_reason `length` |
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to fail, and the requests that it hits."""

    name: str
    scope: Scope

    def hits(self, *, batch: bool) -> bool:
        """Tell whether a request that asks for several things (`batch`) or for one can be hit; which is the first, others know."""
        return batch or self.scope != "batch"


def _table(text: str) -> dict[str, tuple[Scope, str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    return {name: ("batch" if scope == "batch" else "all", what) for name, scope, what in rows[1:]}


# the table is read, so that what is documented and what is known are the same
_FAULTS = _table(_TABLE)

FAULTS: Mapping[str, str] = MappingProxyType({name: what for name, (_, what) in _FAULTS.items()})
"""Name of each fault → what happens."""


def read_model(model: str) -> tuple[str, Fault | None]:
    """Return the model's plain name and its fault, if it names one; raises KeyError for a fault that is not in FAULTS."""
    plain, plus, suffix = model.rpartition("+")
    if not plus:
        return model, None
    name, _, scope = suffix.partition("@")
    usual, _ = _FAULTS[name]
    match scope:
        case "":
            return plain, Fault(name, usual)
        case "batch" | "all" | "first":
            return plain, Fault(name, scope)
        case _:
            raise KeyError(suffix)
