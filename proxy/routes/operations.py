"""What operators and their machines ask: models, readiness, and the names of what this release does not build."""

from __future__ import annotations

from typing import Literal

from proxy.errors import NotFoundError
from proxy.lessons.forms.continuing import site_of
from proxy.model import Reply
from proxy.routes.calls import open_path
from proxy.routes.exchange import Exchange
from proxy.routes.replies import json_reply

State = Literal["starting", "ready", "draining"]
MODELS = "/v1/models/"
RESPONSES = "/v1/responses/"

_UNBUILT = {
    "/v1/savings": "The savings report is not built in this release; GET /metrics has the counts.",
    "/dashboard": "The dashboard is not built in this release; GET /metrics has the counts.",
}
_SHOWN = 100


def unbuilt(path: str) -> NotFoundError | None:
    """Return the refusal of a path that a later release will know; None: it is none of those."""
    message = _UNBUILT.get(path)
    return NotFoundError(message, code="not_built") if message else None


async def list_models(exchange: Exchange) -> Reply:
    """Answer `GET /v1/models`."""
    front = exchange.front
    front.access.identify(exchange.headers)
    models = front.upstream.models()
    if not models and front.open_paths.alias(exchange.path, exchange.method, "") is not None:
        # every name goes to one provider with the caller's own key: it knows best which there are
        return await open_path(exchange)
    return json_reply(200, {"object": "list", "data": models})


async def one_model(exchange: Exchange) -> Reply:
    """Answer `GET /v1/models/{id}`; the id may hold slashes."""
    exchange.front.access.identify(exchange.headers)
    wanted = exchange.path.removeprefix(MODELS)
    models = exchange.front.upstream.models()
    for model in models:
        if model.get("id") == wanted:
            return json_reply(200, model)
    if exchange.front.upstream.knows(wanted):
        if exchange.front.open_paths.alias(exchange.path, exchange.method, wanted) is not None:
            # the caller's own key goes with it: its provider knows what the name stands for, and whether for anything
            return await open_path(exchange, wanted)
        # a pattern's: it answers to the name, and nothing else is known of it
        return json_reply(200, {"id": wanted, "object": "model", "created": 0, "owned_by": "lesson-proxy"})
    raise NotFoundError(
        f"The model `{wanted[:_SHOWN]}` does not exist here. GET /v1/models lists the configured ones.",
        code="model_not_found",
        param="model",
    )


async def stored_response(exchange: Exchange) -> Reply:
    """Answer what is asked of one response (`/v1/responses/{id}` and below), which upstream has where it was stored at all."""
    wanted = exchange.path.removeprefix(RESPONSES).partition("/")[0]
    if site_of(wanted) is None:
        return await open_path(exchange)
    exchange.front.access.identify(exchange.headers)
    raise NotFoundError(
        f"{wanted} was not stored: it is one of several lessons that were written in one call (`store: false`).",
        code="response_not_found",
        param="response_id",
    )


def ready_reply(state: State) -> Reply:
    """Answer `GET /health/ready`: 200 while new calls are welcome, else 503 with the reason."""
    if state == "ready":
        return json_reply(200, {"status": "ready"})
    return json_reply(503, {"status": "unavailable", "reason": state})
