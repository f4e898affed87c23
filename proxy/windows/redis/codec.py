"""What replicas say to each other through a store that may read along and lie: names are digests, contents are sealed.

Every name is an HMAC under the shared secret and covers the format's version and the configuration's fingerprint: replicas
that differ in either never see each other's windows. Every content is sealed (AES-GCM) for one place: what was put
elsewhere, cut or altered does not open.
"""

from __future__ import annotations

import base64
import hmac
import os
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, assert_never, cast

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import TypeAdapter, ValidationError

from proxy import errors
from proxy.errors import ProxyError, UpstreamError, UpstreamRejectedError
from proxy.model import Alone, BatchKey, Completed, Failed, Lesson, Merged, Outcome, Refused
from proxy.windows.protocol import Epoch, Ticket

FORMAT = b"2"
"""Raised with every change of what keys, lessons or outcomes mean."""

_NONCE_BYTES = 12
_NAME_BYTES = 18


class UnreadableError(Exception):
    """What came is not what was sealed for this place, or is of another make; nothing of it is told."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A ProxyError as plain values."""

    kind: str
    message: str
    code: str | None
    param: str | None
    retry_after_s: float | None
    should_retry: bool | None
    upstream_status: int | None = None
    detail: dict[str, Any] | None = field(default=None)


_LESSON = TypeAdapter(Lesson)
_COMPLETED, _FAILED, _ALONE, _MERGED, _REFUSAL = map(TypeAdapter, (Completed, Failed, Alone, Merged, _Refusal))
_ERRORS = {kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ProxyError)}


class Codec:
    """Names and contents under one `secret`, for replicas whose `fingerprint` is the same."""

    def __init__(self, secret: bytes, fingerprint: bytes) -> None:
        self._names = _derived(secret, b"names", FORMAT, fingerprint)
        self._contents = _derived(secret, b"contents", FORMAT, fingerprint)

    def name(self, key: BatchKey) -> str:
        """Return what stands for a batch key in the store."""
        return self._named(key.encode())

    def twins(self, lesson: Lesson) -> str:
        """Return what is equal for identical lessons of a window; a digest without the secret would confirm a guessed prompt."""
        return self._named(_derived(b"twins", lesson.key.encode(), lesson.identity_digest.encode()))

    def seal_lesson(self, lesson: Lesson, ticket: Ticket) -> bytes:
        """Seal a lesson for whoever leads its window; raises UnreadableError for what can't be written down."""
        return self._seal(_dumped(lesson), b"lesson", lesson.key, ticket)

    def open_lesson(self, sealed: bytes, key: BatchKey, ticket: Ticket) -> Lesson:
        """Open a lesson of this window; raises UnreadableError."""
        lesson = cast("Lesson", _validated(_LESSON, _loaded(self._open(sealed, b"lesson", key, ticket))))
        if lesson.key != key:
            raise UnreadableError("another key's lesson")
        return lesson

    def seal_outcome(self, outcome: Outcome, key: BatchKey, epoch: Epoch, ticket: Ticket) -> bytes:
        """Seal a call's outcome for its owner; raises UnreadableError for what can't be written down."""
        return self._seal(_dumped(_told(outcome)), b"outcome", key, epoch, ticket)

    def open_outcome(self, sealed: bytes, key: BatchKey, epoch: Epoch, ticket: Ticket) -> Outcome:
        """Open the outcome of this call; raises UnreadableError."""
        return _outcome(_loaded(self._open(sealed, b"outcome", key, epoch, ticket)))

    def _named(self, what: bytes) -> str:
        return base64.urlsafe_b64encode(hmac.digest(self._names, what, "sha256")[:_NAME_BYTES]).decode()

    def _seal(self, content: bytes, *place: bytes | str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher(place).encrypt(nonce, content, None)

    def _open(self, sealed: bytes, *place: bytes | str) -> bytes:
        try:
            return self._cipher(place).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None)
        except (InvalidTag, ValueError):
            raise UnreadableError("not sealed for this place") from None

    def _cipher(self, place: tuple[bytes | str, ...]) -> AESGCM:
        # a key for each place: so it is bound to it, and no nonce is ever drawn often enough under one to come twice
        return AESGCM(_derived(self._contents, *(part.encode() if isinstance(part, str) else part for part in place)))


def _derived(key: bytes, *parts: bytes) -> bytes:
    # lengths in front: no two lists of parts come out alike
    return hmac.digest(key, b"".join(len(part).to_bytes(4) + part for part in parts), "sha256")


def _dumped(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:
        raise UnreadableError("can't be written as JSON") from None


def _loaded(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        raise UnreadableError("not JSON") from None


def _validated(adapter: TypeAdapter[Any], value: object) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError:
        # its text quotes what came
        raise UnreadableError("of another make") from None


_Kind = Literal["completed", "failed", "alone", "refused"]


def _told(outcome: Outcome) -> dict[str, Any]:
    match outcome:
        case Completed():
            return {"kind": "completed", **asdict(outcome)}
        case Failed():
            return {"kind": "failed", **asdict(outcome)}
        case Alone():
            return {"kind": "alone", **asdict(outcome)}
        case Refused():
            return {"kind": "refused", "id": outcome.id, "batch": asdict(outcome.batch), "error": asdict(_refusal(outcome.error))}
        case _:
            assert_never(outcome)


def _outcome(told: Any) -> Outcome:
    if not isinstance(told, dict):
        raise UnreadableError("no outcome")
    values = cast("dict[str, Any]", told)
    kind = values.pop("kind", None)
    match kind:
        case "completed":
            return _validated(_COMPLETED, values)
        case "failed":
            return _validated(_FAILED, values)
        case "alone":
            return _validated(_ALONE, values)
        case "refused":
            return Refused(values.get("id"), _error(values.get("error")), _validated(_MERGED, values.get("batch")))  # pyright: ignore[reportArgumentType]
        case _:
            raise UnreadableError("an outcome of an unknown kind")


def _refusal(error: ProxyError) -> _Refusal:
    upstream = error if isinstance(error, UpstreamError) else None
    return _Refusal(
        type(error).__name__,
        error.message,
        error.code,
        error.param,
        error.retry_after_s,
        error.should_retry,
        upstream.upstream_status if upstream else None,
        upstream.detail if upstream else None,
    )


def _error(told: Any) -> ProxyError:
    refusal = cast("_Refusal", _validated(_REFUSAL, told))
    kind = _ERRORS.get(refusal.kind, UpstreamRejectedError)
    values: dict[str, Any] = {
        "code": refusal.code,
        "param": refusal.param,
        "retry_after_s": refusal.retry_after_s,
        "should_retry": refusal.should_retry,
    }
    if issubclass(kind, UpstreamError):
        return kind(refusal.message, upstream_status=refusal.upstream_status, detail=refusal.detail, **values)
    return kind(refusal.message, **values)
