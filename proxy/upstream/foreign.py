"""Turns what providers and litellm say went wrong into the proxy's own errors, once; it knows no call and no caller.

A message may quote the caller's prompt: it goes to that caller and into no log. Keys are cut out of all that passes here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import orjson

from proxy.errors import (
    ProxyError,
    UpstreamDeniedError,
    UpstreamError,
    UpstreamQuotaError,
    UpstreamRateLimitedError,
    UpstreamRejectedError,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
    UpstreamUnavailableError,
    UpstreamUnreadableError,
)
from proxy.upstream.patience import retry_after_s

DENIED = "The provider refused the credentials that the proxy is configured with; its operator must look after them."
UNREACHABLE = "The provider could not be reached or broke off the connection."
UNREADABLE = "The provider's answer could not be read ({kind}). Is its `api_base` that of the API that `model` names?"
TIMED_OUT = "The provider did not answer in the time allowed."

_TOO_LARGE = re.compile(
    r"request too large|too large for|reduce (?:your|the) (?:message|prompt|length)|maximum context|context[ _](?:length|window|size)"
    r"|prompt is too long|tokens must be reduced|input is too long|too many (?:input )?tokens",
    re.IGNORECASE,
)
_TOO_LARGE_CODES = frozenset({"context_length_exceeded", "request_too_large", "string_above_max_length"})
_STATUS_OF = {
    "content_filter": 400,
    "context_length_exceeded": 400,
    "insufficient_quota": 429,
    "invalid_request_error": 400,
    "json_validate_failed": 400,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "tool_use_failed": 400,
}
"""What codes and types of errors mean that come without a status."""
_LITELLM_PREFIX = re.compile(r"^(?:litellm\.)?\w+(?:Error|Exception|Timeout): ?|^\w+Exception(?: \w+Error)? - ")
_LITELLM_SUFFIX = "\n\nLiteLLM: "
_LONGEST_MESSAGE = 2_000
_WRAPPERS = ("message", "error", "detail", "msg")
_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_DEEPEST = 8
_FELL_OVER = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError, ValueError)
"""What code raises that meets something it did not expect."""
_NETWORK = frozenset({"aiohttp", "anyio", "h11", "h2", "httpcore", "httpx"})
"""Packages whose errors say that the other side could not be reached or broke off, among them some ValueErrors."""


Secrets = tuple[str, ...] | None
"""The operator's keys that a message may hold; None where the caller's own credential went."""


@dataclass(frozen=True, slots=True)
class Said:
    """What upstream answered with."""

    status: int
    detail: Mapping[str, Any]
    """Its error object, as far as it could be read."""
    headers: Mapping[str, str]
    """Lower-case names."""

    def text(self, name: str) -> str:
        """Return a field of the error object as text; empty where it isn't text."""
        value = self.detail.get(name)
        return value if isinstance(value, str) else ""


def error_object(body: bytes | str) -> dict[str, Any]:
    """Return the `error` object of an answer's body, or one with the body as its message; never raises."""
    try:
        parsed: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        text = body if isinstance(body, str) else body.decode("utf-8", "replace")
        return {"message": text[:_LONGEST_MESSAGE]}
    if isinstance(parsed, list) and parsed:  # Gemini's streams wrap it so
        parsed = cast("list[Any]", parsed)[0]
    return _object(parsed)


def _object(parsed: Any) -> dict[str, Any]:
    """Return the error object out of whatever JSON stands for it."""
    error: Any = cast("dict[str, Any]", parsed).get("error", parsed) if isinstance(parsed, dict) else parsed
    if not isinstance(error, dict):
        return {"message": str(error)[:_LONGEST_MESSAGE]}
    found = dict(cast("dict[str, Any]", error))
    if not isinstance(found.get("message"), str) and (words := _words(found)):
        found["message"] = words[:_LONGEST_MESSAGE]
    return found


def _words(value: Any, depth: int = 4) -> str:
    """Return the first text in what servers wrap their messages in: FastAPI's `detail`, lists of faults, one in another."""
    if isinstance(value, list) and value:
        value = cast("list[Any]", value)[0]
    if isinstance(value, dict) and depth:
        parts = cast("dict[str, Any]", value)
        return next((words for name in _WRAPPERS if (words := _words(parts.get(name), depth - 1))), "")
    return value if isinstance(value, str) else ""


def from_answer(said: Said, *, secrets: Secrets) -> UpstreamError:
    """Return the error for an answer with status 400 or above."""
    if said.status in (401, 403):
        return _denied(said, secrets)
    told = _told(said, secrets)
    if _is_quota(said):
        return UpstreamQuotaError(**told, should_retry=False)
    if _is_too_large(said):
        return UpstreamTooLargeError(**told)
    if said.status == 429:  # noqa: PLR2004 - HTTP's own number
        return UpstreamRateLimitedError(**told, retry_after_s=retry_after_s(said.headers))
    return _failed(said, told)


def _failed(said: Said, told: dict[str, Any]) -> UpstreamError:
    match said.status:
        case 408 | 504:
            return UpstreamTimeoutError(**told)
        case status if status >= 500:  # noqa: PLR2004 - HTTP's own number
            return UpstreamUnavailableError(**told, retry_after_s=retry_after_s(said.headers))
        case _:
            error = UpstreamRejectedError(**told)
            error.salvage = said.text("failed_generation")
            return error


def _denied(said: Said, secrets: Secrets) -> UpstreamDeniedError:
    if secrets is not None:
        # upstream's own words show a part of the key
        return UpstreamDeniedError(DENIED, upstream_status=said.status)
    return UpstreamDeniedError(**_told(said, None))


def _told(said: Said, secrets: Secrets) -> dict[str, Any]:
    detail = {name: scrub(value, secrets) for name in ("message", "type", "param", "code") if (value := said.text(name))}
    message = detail.get("message") or f"The provider answered with status {said.status}."
    code = detail.get("code", "")
    # events and metrics tell the code; what is not of a code's form may quote anything, and stays in the caller's detail
    return {"message": message, "upstream_status": said.status, "detail": detail, "code": code if _CODE.fullmatch(code) else None}


def _is_quota(said: Said) -> bool:
    if said.status == 402:  # noqa: PLR2004 - payment required
        return True
    return said.status == 429 and "insufficient_quota" in (said.text("code"), said.text("type"))  # noqa: PLR2004


def _is_too_large(said: Said) -> bool:
    if said.status == 413 or not _TOO_LARGE_CODES.isdisjoint((said.text("code"), said.text("type"))):  # noqa: PLR2004
        return True
    return said.status in (400, 422, 429) and _TOO_LARGE.search(said.text("message")) is not None


def scrub(text: str, secrets: Secrets) -> str:
    """Return `text` without the keys."""
    for secret in secrets or ():
        text = text.replace(secret, "***")
    return text


def from_litellm(error: Exception, *, secrets: Secrets) -> ProxyError:
    """Return our error for whatever litellm raised; what is ours already stays as it is."""
    error = _innermost(error)
    if isinstance(error, ProxyError):
        return error
    kind = type(error).__name__
    cooldown = getattr(error, "cooldown_time", None)
    if kind == "RouterRateLimitError" and isinstance(cooldown, int | float):
        return UpstreamRateLimitedError("Every deployment of this model rests after failures.", retry_after_s=float(cooldown))
    headers = _headers(error)
    status = getattr(error, "status_code", None)
    if "Timeout" in kind or isinstance(error, TimeoutError):
        return UpstreamTimeoutError(TIMED_OUT)
    # litellm invents a 500 for what never reached the provider, and an answer is known by its headers
    if not isinstance(status, int) or not 400 <= status < 600 or (status >= 500 and not headers):  # noqa: PLR2004
        said = _said_in_stream(error)
        return from_answer(said, secrets=secrets) if said else _unanswered(error)
    return from_answer(_said(error, kind, status, headers), secrets=secrets)


def _unanswered(error: Exception) -> UpstreamUnavailableError:
    """Return what became of a call that has no answer: code fell over it, or there was nobody."""
    chain = list(_causes(error))
    fell = next((cause for cause in chain if isinstance(cause, _FELL_OVER)), None)
    broke = any(isinstance(cause, OSError) or type(cause).__module__.partition(".")[0] in _NETWORK for cause in chain)
    if fell is None or broke or _body(error):
        return UpstreamUnavailableError(UNREACHABLE)
    # the name of its class alone: its words may quote the answer
    return UpstreamUnreadableError(UNREADABLE.format(kind=type(fell).__name__))


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    for _ in range(_DEEPEST):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or cause.__context__


def _said_in_stream(error: Exception) -> Said | None:
    """Return what an event of upstream's stream said, of which litellm makes no status, or stumbles over; None: nothing.

    What is not plainly about the request counts as upstream's own failure.
    """
    detail = _body(error)
    status: Any = detail.get("status_code", detail.get("code"))
    if not isinstance(status, int) or not 400 <= status < 600:  # noqa: PLR2004 - HTTP's own numbers
        named = (detail.get("code"), detail.get("type"))
        status = next((_STATUS_OF[name] for name in named if isinstance(name, str) and name in _STATUS_OF), 0)
    return Said(status, detail, {}) if status else None


def _innermost(error: Exception) -> Exception:
    for _ in range(_DEEPEST):
        inner = getattr(error, "original_exception", None)
        if not isinstance(inner, Exception):
            break
        error = inner
    return error


def _headers(error: Exception) -> dict[str, str]:
    found: Any = getattr(error, "litellm_response_headers", None)
    return {str(name).lower(): str(value) for name, value in dict(found or {}).items()}


def _said(error: Exception, kind: str, status: int, headers: Mapping[str, str]) -> Said:
    detail = _body(error)
    if not detail:
        text = str(getattr(error, "message", error))[: 8 * _LONGEST_MESSAGE].partition(_LITELLM_SUFFIX)[0]
        while (shorter := _LITELLM_PREFIX.sub("", text, count=1)) != text:
            text = shorter
        detail = error_object(_as_written(text))
    if kind == "ContextWindowExceededError":
        detail = detail | {"code": "context_length_exceeded"}
    elif kind == "ContentPolicyViolationError":
        detail = {"code": "content_filter"} | detail
    return Said(status, detail, headers)


def _as_written(text: str) -> str:
    """Return what upstream wrote where litellm quotes it as Python would."""
    if not text.startswith(("b'", 'b"')):
        return text
    try:
        written: Any = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text
    return written.decode("utf-8", "replace") if isinstance(written, bytes) else text


def _body(error: Exception) -> dict[str, Any]:
    source: BaseException | None = error
    for _ in range(_DEEPEST):
        body: Any = getattr(source, "body", None)
        if isinstance(body, dict) and body:
            return _object(cast("Any", body))
        source = source.__context__ if source else None
    return {}
