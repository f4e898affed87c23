"""Digests what calls must have in common to share a batch; it knows which parts count, not what they mean.

The parts are encoded as one JSON list, so no two different lists of parts have the same text.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, cast

import orjson

from proxy.lessons.forms.chat import NEUTRAL
from proxy.model import ACCOUNT, SITE_APP, BatchKey, Call, Json

_VERSION = 1
_DIGEST_BYTES = 32
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_UNCOUNTED = frozenset({"stream", "stream_options"})
_SHARE_DIGITS = 13
_NULL = b"null"
_NULLS = (b":null", b",null", b"[null")
_USER = "user"
_FORM = ("tools", "tool_choice", "response_format")
_WRAPPED = frozenset({"tools", "response_format"})
_WRAPPER_LEVELS = 2
"""What stands around a caller's schema: `{"type", "function": {"name", …}}`."""


class NotEncodableError(ValueError):
    """A body nested or sized beyond what can be encoded."""


def canonical(value: Any) -> bytes:
    """Return a text that only equal values have (1, 1.0, true and null stay apart); raises NotEncodableError.

    The order of names counts: a model writes the properties of a schema in the order in which they stand there.
    """
    try:
        text = orjson.dumps(value)
        # orjson writes NaN and infinities as null: where a null stands, the slow way tells them apart
        if text != _NULL and not any(null in text for null in _NULLS):
            return text
    except TypeError:
        # integers over 64 bits, lone surrogates, deep nesting
        pass
    try:
        return b" " + json.dumps(value, separators=(",", ":")).encode("ascii")
    except (RecursionError, ValueError, TypeError) as error:
        raise NotEncodableError("the body can't be encoded") from error


def _digest(value: Any) -> str:
    return blake2b(canonical(value), digest_size=_DIGEST_BYTES).hexdigest()


def identity_digest(body: Json) -> str:
    """Return the digest of the whole body less stream, stream_options and token limit."""
    return _digest(_without(body, _UNCOUNTED | set(_LIMITS)))


def site_digest(key_digest: str, model: str, system: Sequence[str], schema: Json | None) -> str:
    """Return `Lesson.site`; raises NotEncodableError."""
    app = _digest([key_digest, model])[:SITE_APP]
    return app + _digest([list(system), schema])[:SITE_APP]


@dataclass(frozen=True, slots=True)
class KeyParts:
    """What recognising found that the key needs beside the call."""

    model: str
    """The alias that the call goes to."""
    rule: str
    subject: str = field(repr=False)
    """Normalised, as the topic is."""
    topic: str = field(repr=False)
    learner: tuple[str, ...] | None = field(repr=False)
    """Kind and parts; None: only calls with identical bodies share."""
    half: tuple[str, ...] = field(repr=False)
    """With no learner: what is known of one all the same."""
    identity_fields: frozenset[str]
    """Body fields that tell the learner."""
    identity_metadata: frozenset[str]
    """Metadata that tells the learner."""
    across_users: bool = False
    """With no learner: bodies may differ in what tells the learner."""


def batch_key(call: Call, chat_body: Json, parts: KeyParts) -> BatchKey:
    """Return the key; raises NotEncodableError. `chat_body`: the call's body as chat says it.

    A known learner's calls of equal meaning share, whichever API they came by; without a learner the bodies must be
    identical as they were written.
    """
    known = parts.learner is not None
    body = _personal(chat_body, parts) if known else _whole(call.body, parts)
    return BatchKey(
        _digest(
            [
                _VERSION,
                call.caller.key_digest,
                parts.learner or (),
                parts.half,
                parts.model,
                parts.rule,
                parts.subject,
                parts.topic,
                "" if known else call.path,
                {name: call.headers[name] for name in ACCOUNT if name in call.headers},
                sorted(name for name in _LIMITS if chat_body.get(name) is not None),
                body,
            ]
        )
    )


def _personal(body: Json, parts: KeyParts) -> Json:
    """Return the body of a known learner's call less what its lessons may differ in."""
    # of a lesson call the fields of `NEUTRAL` ask for nothing, or it would go alone
    left_out = _UNCOUNTED | parts.identity_fields | NEUTRAL.keys() | {"messages", "metadata", "model", *_LIMITS}
    unset = [name for name in _FORM if body.get(name) in (None, [])]
    kept = _without(body, left_out | set(unset))
    # user messages keep their place, so the others' positions count
    kept["messages"] = [_USER if message.get("role") == _USER else message for message in body["messages"]]
    for name in _WRAPPED & kept.keys():
        kept[name] = _ordered(kept[name], _WRAPPER_LEVELS)
    return kept


def _ordered(value: Any, levels: int) -> Any:
    """Return the value with the names of its outer levels in an order of ours: there it means nothing, unlike within a schema."""
    if levels and isinstance(value, dict):
        known = cast("Json", value)
        return {name: _ordered(known[name], levels - 1) for name in sorted(known)}
    if levels and isinstance(value, list):
        return [_ordered(item, levels) for item in cast("list[Any]", value)]
    return value


def _whole(body: Json, parts: KeyParts) -> Json:
    left_out: Collection[str] = _UNCOUNTED | frozenset(_LIMITS)
    if parts.across_users:
        left_out = left_out | parts.identity_fields
    kept = _without(body, left_out)
    metadata = kept.get("metadata")
    if parts.across_users and isinstance(metadata, dict):
        known = cast("Json", metadata)
        kept["metadata"] = {name: value for name, value in known.items() if name not in parts.identity_metadata}
    return kept


def _without(body: Json, left_out: Collection[str]) -> Json:
    """Return the other fields, in an order of ours: clients write them in different ones, and it means nothing."""
    return {name: body[name] for name in sorted(body) if name not in left_out}


def falls_within(key: BatchKey, share: float) -> bool:
    """Tell whether a key belongs to the given share of all keys; a key always answers alike."""
    return int(key[:_SHARE_DIGITS], 16) < share * 16**_SHARE_DIGITS
