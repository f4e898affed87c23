"""The provider's own errors, each an HTTP status with an error object in a dialect's form; knows nothing of when they are due."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never

import orjson
from aiohttp import web

from proxy.simulated.dialects import ErrorForm

_ANTHROPICS = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large",
    429: "rate_limit_error",
}  # fmt: skip
_GOOGLES = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED"}


class RefusalError(Exception):
    """Ends a request with an error object of all four keys."""

    def __init__(
        self, status: int, message: str, *, kind: str = "invalid_request_error", code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error: dict[str, Any] = {"message": message, "type": kind, "param": param, "code": code}
        self.headers: Mapping[str, str] = {}

    def response(self, form: ErrorForm = "openai") -> web.Response:
        """Return the HTTP answer in a dialect's form."""
        body = orjson.dumps(self.body(form))
        return web.Response(status=self.status, body=body, content_type="application/json", headers=self.headers)

    def body(self, form: ErrorForm) -> dict[str, Any]:  # noqa: PLR0911 - one a form
        """Return the answer's JSON."""
        message, kind, param = (self.error[name] for name in ("message", "type", "param"))
        match form:
            case "openai":
                return {"error": self.error}
            case "flat":
                return self.error | {"object": "error", "code": self.error["code"] or self.status}
            case "detail":
                return {"detail": {"error": message}}
            case "mistral" if self.status == 422:  # noqa: PLR2004 - HTTP's own number
                told = {"type": self.error["code"], "loc": ["body", param], "msg": message}
                return {"object": "error", "message": {"detail": [told]}, "type": kind, "param": None, "code": None}
            case "mistral":
                return {"object": "error", **self.error}
            case "anthropic":
                return {"type": "error", "error": {"type": _ANTHROPICS.get(self.status, "api_error"), "message": message}}
            case "google":
                return {"error": {"code": self.status, "message": message, "status": _GOOGLES.get(self.status, "INTERNAL")}}
            case _:
                assert_never(form)


def invalid(message: str, param: str | None = None) -> RefusalError:
    """Return the error for a body that can't be understood."""
    return RefusalError(400, message, param=param)
