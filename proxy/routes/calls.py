"""The paths that lead upstream: a request becomes a Call, or is refused in words that say what is wrong; it judges no lesson."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from proxy.access.keys import CREDENTIALS
from proxy.errors import BadRequestError, MethodNotAllowedError, NotFoundError
from proxy.model import Call, Caller, Json, Reply
from proxy.routes.body import parse_object, read_body
from proxy.routes.exchange import Exchange
from proxy.routes.front import Front

_LONGEST_MODEL = 256
_LONGEST_SHOWN = 100
CHAT = "/v1/chat/completions"
_RESPONSES = "/v1/responses"
_IN_PLACE_OF_INPUT = ("previous_response_id", "conversation", "prompt")
# what the caller proved itself with (where that goes upstream, `Caller.bearer` carries it), and how the body came packed
ENDS_HERE = (*CREDENTIALS, "content-encoding")


async def model_call(exchange: Exchange) -> Reply:
    """Answer a call of one of the API's own paths: its body is JSON and names a configured model."""
    front = exchange.front
    headers = exchange.headers
    caller = front.access.identify(headers)
    raw = await read_body(exchange.receive, headers, max_bytes=front.max_body_bytes, hold=exchange.hold, here=exchange.body_is_here)
    body = parse_object(raw)
    exchange.model = _model(body)
    exchange.stream = streams(body)
    if exchange.path == CHAT:
        _require_messages(body)
    elif exchange.path == _RESPONSES:
        _require_input(body)
    require_known(front, exchange.model)
    return await _hand_over(exchange, raw, body, caller)


async def open_path(exchange: Exchange, model: str = "") -> Reply:
    """Answer a call of a path that the proxy does not know by itself, where the configuration opens it.

    `model`: what the path names, where its body names none.
    """
    front = exchange.front
    headers = exchange.headers
    caller = front.access.identify(headers)
    if not front.open_paths.may_be_open(exchange.path):
        return _closed(exchange)
    raw = await read_body(exchange.receive, headers, max_bytes=front.max_body_bytes, hold=exchange.hold, here=exchange.body_is_here)
    body = parse_object(raw) if _is_json(raw, headers) else {}
    named = body.get("model")
    exchange.model = named[:_LONGEST_MODEL] if isinstance(named, str) else model
    alias = front.open_paths.alias(exchange.path, exchange.method, exchange.model)
    if alias is None or not front.upstream.knows(alias):
        return _closed(exchange)
    return await _hand_over(exchange, raw, body, caller, alias)


def _closed(exchange: Exchange) -> Reply:
    if methods := exchange.front.open_paths.methods(exchange.path):
        allow = ", ".join(methods)
        raise MethodNotAllowedError(f"{exchange.path} takes {allow}.").told((("allow", allow),))
    raise NotFoundError(
        f"{exchange.path} is not forwarded by this proxy. A path beyond the built-in ones is open only where the configuration "
        "names it under `passthrough`, or where the model's entry says `api_key: caller`.",
        code="unknown_url",
    )


async def _hand_over(exchange: Exchange, raw: bytes, body: Json, caller: Caller, alias: str | None = None) -> Reply:
    headers = exchange.headers
    for name in ENDS_HERE:
        headers.pop(name, None)
    call = Call(
        exchange.id,
        exchange.path,
        exchange.scope["query_string"].decode("latin-1"),
        headers,
        raw,
        body,
        caller,
        exchange.method,
        alias,
    )
    exchange.departure.watch()
    exchange.handed_over = True
    return await exchange.front.answer(call)


def _is_json(raw: bytes, headers: Mapping[str, str]) -> bool:
    return bool(raw) and "json" in headers.get("content-type", "").lower()


def require_chat(body: Json) -> str:
    """Return the model that a chat body names; raises BadRequestError or NotFoundError for what no provider could answer."""
    model = _model(body)
    _require_messages(body)
    return model


def require_known(front: Front, model: str) -> None:
    """Raise NotFoundError where the configuration has no deployment for this name."""
    if not front.upstream.knows(model):
        raise _no_such_model(model)


def _model(body: Json) -> str:
    model = body.get("model")
    if model is None:
        raise BadRequestError("you must provide a model parameter", param="model", code="missing_required_parameter")
    if not isinstance(model, str) or not model or not model.isprintable():
        raise BadRequestError("Invalid value for 'model': expected the name of a model as a string.", param="model", code="invalid_type")
    if len(model) > _LONGEST_MODEL:
        raise _no_such_model(model)
    return model


def streams(body: Json) -> bool:
    """Tell whether a body asks for a stream; raises BadRequestError where `stream` is neither true nor false."""
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise BadRequestError("Invalid type for 'stream': expected true or false.", param="stream", code="invalid_type")
    return stream is True


def _require_messages(body: Json) -> None:
    messages = body.get("messages")
    if messages is None:
        raise BadRequestError("Missing required parameter: 'messages'.", param="messages", code="missing_required_parameter")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in cast("list[Any]", messages)):
        raise BadRequestError("Invalid type for 'messages': expected an array of objects.", param="messages", code="invalid_type")


def _require_input(body: Json) -> None:
    said = body.get("input")
    if said is None and all(body.get(name) is None for name in _IN_PLACE_OF_INPUT):
        raise BadRequestError("Missing required parameter: 'input'.", param="input", code="missing_required_parameter")
    if said is not None and not isinstance(said, (str, list)):
        raise BadRequestError("Invalid type for 'input': expected a string or an array of items.", param="input", code="invalid_type")


def _no_such_model(model: str) -> NotFoundError:
    shown = model if len(model) <= _LONGEST_SHOWN else model[:_LONGEST_SHOWN] + "…"
    return NotFoundError(
        f"The model `{shown}` does not exist here. GET /v1/models lists the configured ones.", code="model_not_found", param="model"
    )
