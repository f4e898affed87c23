"""The answers of faults that are no answers of a model: HTTP errors, pages, junk; and where streams go wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from aiohttp import web

from proxy.simulated.refusals import RefusalError

STOP_IN_THE_MIDDLE = frozenset({"stall", "broken", "half", "stream_error"})
"""Faults whose stream begins honestly."""
JUNK = b"\x00\xffdata: {not json\n\n: \nevent\ndata:[}\n\n<p>data: </p>\n\n"
_PAGE = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"


def _rate_limited() -> RefusalError:
    error = RefusalError(429, "Rate limit reached for requests. Try again in 1s.", kind="requests", code="rate_limit_exceeded")
    error.headers = {"Retry-After": "1"}
    return error


def _server_error() -> RefusalError:
    return RefusalError(500, "The server had an error while processing your request.", kind="server_error")


_REFUSALS: Mapping[str, Callable[[], RefusalError]] = MappingProxyType(
    {
        "429": _rate_limited,
        "429_too_large": lambda: RefusalError(
            429,
            "Request too large for model on tokens per minute (TPM): Limit 6000, Requested 9000. Please reduce your message size.",
            kind="tokens",
            code="rate_limit_exceeded",
        ),
        "quota": lambda: RefusalError(429, "You exceeded your current quota.", kind="insufficient_quota", code="insufficient_quota"),
        "400": lambda: RefusalError(
            400, "Invalid schema for function.", param="tools[0].function.parameters", code="invalid_function_parameters"
        ),
        "401": lambda: RefusalError(401, "Incorrect API key provided.", code="invalid_api_key"),
        "403": lambda: RefusalError(403, "You are not allowed to use this model.", kind="permission_error", code="permission_denied"),
        "413": lambda: RefusalError(413, "Request entity too large.", code="request_too_large"),
        "context_length": lambda: RefusalError(
            400, "This model's maximum context length is 8192 tokens.", code="context_length_exceeded", param="messages"
        ),
        "500": _server_error,
        "503": lambda: RefusalError(
            503, "The engine is currently overloaded, please try again later.", kind="server_error", code="overloaded"
        ),
    }
)
_ONCE: Mapping[str, Callable[[], RefusalError]] = MappingProxyType({"429_once": _rate_limited, "500_once": _server_error})


def mishap(fault: str, *, first: bool) -> web.Response | None:
    """Return the answer that is due instead of the model's, or None; raises RefusalError for an error. `first`: this body is new."""
    refusal = _REFUSALS.get(fault) or (_ONCE.get(fault) if first else None)
    if refusal is not None:
        error = refusal()
        raise error
    match fault:
        case "html":
            return web.Response(status=502, text=_PAGE, content_type="text/html")
        case "redirect":
            return web.Response(status=307, headers={"Location": "/redirected"})
        case "empty_200":
            return web.Response(status=200)
        case _:
            return None


def tool_use_failed(text: str) -> RefusalError:
    """Return the error of a provider that checks arguments itself, with what the model wrote."""
    message = "Failed to call a function. Please adjust your prompt. See 'failed_generation' for more details."
    error = RefusalError(400, message, code="tool_use_failed")
    error.error["failed_generation"] = text
    return error
