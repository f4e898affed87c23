"""Every error a caller can meet: one tree, each with its HTTP status and OpenAI error type; it knows no HTTP library.

The message is for the caller: it says what is wrong, where, and what to do; it never holds a secret or a prompt.
"""

from __future__ import annotations

from copy import copy
from typing import Any, ClassVar, Self


class ProxyError(Exception):
    """Something that ends a call with an OpenAI error object."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.retry_after_s = retry_after_s
        """Seconds after which a client may try again; sent as `retry-after`, rounded up."""
        self.should_retry = should_retry
        """Sent as `x-should-retry` where it is not None (the OpenAI SDKs obey it)."""
        self.headers: tuple[tuple[str, str], ...] = ()
        """What the caller is told besides."""

    @property
    def http_status(self) -> int:
        """Return the HTTP status that the caller gets."""
        return self.status

    def told(self, headers: tuple[tuple[str, str], ...]) -> Self:
        """Return this error for one caller, with headers of its own: all callers of a batch may share the original."""
        told = copy(self)
        told.headers = headers
        return told

    def body(self) -> dict[str, Any]:
        """Return the error in OpenAI's form, all four keys present."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class BadRequestError(ProxyError):
    """The caller's request can't be understood."""

    status = 400
    type = "invalid_request_error"


class UnauthorizedError(ProxyError):
    """No key, or one that the configuration doesn't know."""

    status = 401
    type = "invalid_request_error"
    default_code = "invalid_api_key"


class NotFoundError(ProxyError):
    """No such path or model here."""

    status = 404
    type = "invalid_request_error"


class MethodNotAllowedError(ProxyError):
    """The path is known, the method isn't."""

    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"


class RequestTimeoutError(ProxyError):
    """The request did not come whole in the time allowed."""

    status = 408
    type = "invalid_request_error"
    default_code = "request_timeout"


class BodyTooLargeError(ProxyError):
    """The request body is over the configured bound."""

    status = 413
    type = "invalid_request_error"
    default_code = "request_too_large"


class HeadTooLargeError(ProxyError):
    """The request line and the headers are larger than any client's."""

    status = 431
    type = "invalid_request_error"
    default_code = "headers_too_large"


class OverloadedError(ProxyError):
    """A bound of the proxy is reached; the client may try again."""

    status = 503
    type = "server_error"
    default_code = "overloaded"


class InternalError(ProxyError):
    """A fault of the proxy's own; its cause stands in the log under the request id."""

    default_code = "internal_error"


class UpstreamError(ProxyError):
    """Upstream refused or failed. `detail` is upstream's own error object where it is safe to hand on."""

    status = 502
    type = "server_error"
    default_code = "upstream_error"

    def __init__(  # noqa: PLR0913 - an error is told once, with all that is known of it
        self,
        message: str,
        *,
        upstream_status: int | None = None,
        detail: dict[str, Any] | None = None,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(message, code=code, param=param, retry_after_s=retry_after_s, should_retry=should_retry)
        self.upstream_status = upstream_status
        self.detail = detail

    @property
    def http_status(self) -> int:
        """Return upstream's own status where there was one, else the class's."""
        return self.upstream_status or self.status

    def body(self) -> dict[str, Any]:
        """Return upstream's own error object, completed to four keys, or ours."""
        ours = super().body()["error"]
        return {"error": ours | {k: v for k, v in (self.detail or {}).items() if k in ours}}


class UpstreamRateLimitedError(UpstreamError):
    """429, or a group of deployments in cooldown: wait as `retry_after_s` says and try the same again."""

    status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"


class UpstreamTooLargeError(UpstreamError):
    """The request is too large for the model or its rate (413, a 429 that says so, context too long)."""

    status = 413
    type = "invalid_request_error"
    default_code = "context_length_exceeded"


class UpstreamQuotaError(UpstreamError):
    """429 `insufficient_quota`: nothing helps but the owner."""

    status = 429
    type = "insufficient_quota"
    default_code = "insufficient_quota"


class UpstreamDeniedError(UpstreamError):
    """401 or 403: the credentials are wrong or may not use this model."""

    status = 401
    type = "invalid_request_error"
    default_code = "upstream_denied"


class UpstreamRejectedError(UpstreamError):
    """400 and other 4xx: unsupported tool or schema, content filter, refusal, unknown model.

    `salvage` holds the model's text where upstream sent it along (Groq's `failed_generation`).
    """

    status = 400
    type = "invalid_request_error"
    default_code = "upstream_rejected"
    salvage: str = ""


class UpstreamUnavailableError(UpstreamError):
    """5xx, network failure, a broken stream."""

    status = 502


class UpstreamUnreadableError(UpstreamUnavailableError):
    """The answer is none of the provider's API, or litellm stumbled over it or over the request."""

    default_code = "upstream_unreadable"


class UpstreamTimeoutError(UpstreamUnavailableError):
    """No first token, or no further one, in the time allowed."""

    status = 504
    default_code = "upstream_timeout"
