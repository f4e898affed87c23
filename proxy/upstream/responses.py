"""The Responses API upstream: which deployments have it, and how litellm's translation reads where one has not.

A translated call becomes a chat call: nothing of it is stored anywhere, so it can't go on from an earlier one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

import orjson

from proxy.errors import BadRequestError, ProxyError
from proxy.model import Call, Deployment, Json, Reply
from proxy.upstream.copied import broken_response_event
from proxy.upstream.pieces import count

PATH = "/v1/responses"

_NO_SUCH_PATH = (404, 405, 501)
_SPEAKS_OF_A_PATH = re.compile(
    r"^\W*$|not[ _]?found|not[ _]allowed|not[ _]implemented|not supported|unknown|invalid url|no (?:such )?(?:route|path|endpoint)"
    r"|unrecognized request|cannot post|/responses",
    re.IGNORECASE,
)
"""How servers say that they have no such path: each in its own words."""
_FIELD_NAMES = (
    "input instructions max_output_tokens parallel_tool_calls reasoning stream temperature text tool_choice tools top_p user truncation "
    "service_tier safety_identifier include store max_tool_calls previous_response_id prompt background top_logprobs prompt_cache_key"
)
FIELDS = frozenset(_FIELD_NAMES.split())
"""What goes to litellm under its own name."""
_NEEDS_A_STORE = ("previous_response_id", "conversation", "prompt")
_CHATS_TOOLS = ("function", "custom", "web_search")
_CHATS_FIELDS = frozenset(
    {"input", "instructions", "max_output_tokens", "parallel_tool_calls", "reasoning", "stream", "temperature", "text", "tool_choice"}
    | {"tools", "top_p", "user", "service_tier", "safety_identifier", "truncation"}
)
"""Those of them that litellm says in chat's words; the others mean nothing there."""
_USUAL: Json = {
    # what clients' models require, or OpenAI says where it is left open
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "usage": None,
}
_KEPT_HERE = frozenset({"model", "metadata", "stream_options"})


class Speakers:
    """Knows which deployments have the Responses API: by the table or the operator's word, else by what their server answers."""

    def __init__(self) -> None:
        self._without: set[str] = set()
        """Ids of entries, so no more than the configuration has."""

    def have_it(self, deployments: Iterable[Deployment]) -> bool:
        """Tell whether a call can go to these as it is; nobody knows better until one has answered."""
        return all(d.capability.responses is not False and d.id not in self._without for d in deployments)

    def learn(self, call: Call, reply: Reply, deployments: Iterable[Deployment]) -> bool:
        """Tell whether this answer means that the server has no such path, and remember it."""
        unknown = [d for d in deployments if d.capability.responses is None]
        if reply.status not in _NO_SUCH_PATH or not unknown or not _is_plain(call.body):
            return False
        text = reply.body.decode("utf-8", "replace")
        # a model that isn't there is another matter
        named = "model_not_found" in text or any(re.search(rf"(?<!\w){re.escape(d.model)}(?!\w)", text) for d in unknown)
        if named or _SPEAKS_OF_A_PATH.search(text) is None:
            return False
        self._without.update(d.id for d in unknown)
        return True


def _is_plain(body: Json) -> bool:
    """Tell whether a chat call could do the same: nothing else is named that may not have been found."""
    try:
        check_translatable(body)
    except BadRequestError:
        return False
    return True


def names_stored(body: Json) -> bool:
    """Tell whether a body goes on from something that was stored upstream."""
    given: Any = body.get("input")
    items = cast("list[Any]", given) if isinstance(given, list) else []
    referred = any(isinstance(item, dict) and cast("Json", item).get("type") == "item_reference" for item in items)
    return referred or any(body.get(name) is not None for name in _NEEDS_A_STORE)


def check(body: Json) -> None:
    """Raise BadRequestError where litellm would stumble over the body's shape."""
    given: Any = body.get("input")
    items = cast("list[Any]", given) if isinstance(given, list) else []
    if not isinstance(given, str | list) or not all(isinstance(item, dict) for item in items):
        raise BadRequestError("'input' must be a text or a list of objects.", param="input")


def check_translatable(body: Json) -> None:
    """Raise BadRequestError for what no chat call can do: litellm would leave it out in silence."""
    for name in _NEEDS_A_STORE:
        if body.get(name) is not None:
            raise _unsupported(name, "its provider keeps no responses. Send what was said along.")
    if names_stored(body):
        raise _unsupported("input", "its provider keeps no items to refer to. Send them along.")
    if body.get("background") is True:
        raise _unsupported("background", "its provider answers at once or not at all.")
    tools: Any = body.get("tools")
    for tool in cast("list[Any]", tools) if isinstance(tools, list) else ():
        kind = cast("Json", tool).get("type") if isinstance(tool, dict) else None
        if not isinstance(kind, str) or not kind.startswith(_CHATS_TOOLS):
            raise _unsupported("tools", "its provider has functions only.")


def _unsupported(name: str, why: str) -> BadRequestError:
    return BadRequestError(f"'{name}' can't be used with this model: {why}", param=name, code="unsupported_parameter")


def arguments(body: Json, own_extra: Mapping[str, Any] | None, *, translate: bool) -> dict[str, Any]:
    """Return a caller's body as keyword arguments of `litellm.aresponses`; `translate`: it becomes a chat call."""
    allowed = _CHATS_FIELDS if translate else FIELDS
    named: dict[str, Any] = {name: value for name, value in body.items() if name in allowed and value is not None}
    # `metadata` as an argument would be litellm's own
    kept_here = _KEPT_HERE if translate else _KEPT_HERE - {"metadata"}
    extra = {name: value for name, value in body.items() if name not in FIELDS | kept_here}
    if extra or own_extra:
        named["extra_body"] = extra | dict(own_extra or {})
    if translate:
        named["use_chat_completions_api"] = True
    # else a tool of the caller's could make litellm call servers of its own
    return named | {"_skip_mcp_handler": True}


def rendered(answer: Any, body: Json, *, translated: bool) -> Json:
    """Return litellm's response as OpenAI would have written it; one that was translated is stored nowhere."""
    said: Json = cast("Json", answer) if isinstance(answer, dict) else answer.model_dump(mode="json", exclude_none=True)
    told: Json = _USUAL | {name: value for name, value in said.items() if value is not None}
    told["metadata"] = body.get("metadata") or {}
    usage: Any = told.get("usage")
    if isinstance(usage, dict):
        told["usage"] = _usage(cast("Json", usage))
    return told | ({"store": False} if translated else {})


def _usage(usage: Json) -> Json:
    """Return the counts as whole numbers, with every detail that clients' models require."""
    given = {name: cast("Json", usage.get(f"{name}_details") or {}) for name in ("input_tokens", "output_tokens")}
    counts = {name: count(usage.get(name)) for name in given}
    cached, written = (count(given["input_tokens"].get(name)) for name in ("cached_tokens", "cache_write_tokens"))
    return {
        "input_tokens": counts["input_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "output_tokens": counts["output_tokens"],
        "output_tokens_details": {"reasoning_tokens": count(given["output_tokens"].get("reasoning_tokens"))},
        "total_tokens": sum(counts.values()),
    }


class ResponseEvents:
    """litellm's events as OpenAI's, numbered without a gap."""

    ending = b""

    def __init__(self, body: Json, *, translated: bool) -> None:
        self._body = body
        self._translated = translated
        self._number = 0
        self._names: dict[str, Any] = {}
        """By the item's id, the functions that are called."""

    def ends(self, event: Any) -> bool:
        """Tell whether the response is complete with this event."""
        return event.type == "response.completed"

    def of(self, event: Any) -> bytes | None:
        """Return one event, with what litellm's own lack."""
        told: Json = event.model_dump(mode="json", exclude_none=True)
        item: Any = told.get("item")
        if isinstance(item, dict):
            called = cast("Json", item)
            self._names[str(called.get("id"))] = called.get("name")
        match told.get("type"):
            case "response.output_text.delta" | "response.output_text.done":
                told.setdefault("logprobs", [])
            case "response.function_call_arguments.done":
                told.setdefault("name", self._names.get(told.get("item_id", "")) or "")
            case _ if isinstance(told.get("response"), dict):
                told["response"] = rendered(told["response"], self._body, translated=self._translated)
            case _:
                pass
        return self._written(told)

    def broken(self, error: ProxyError) -> bytes:
        """Return the event that tells that the stream is not whole."""
        return broken_response_event(error, self._number)

    def _written(self, told: Json) -> bytes:
        told["sequence_number"], self._number = self._number, self._number + 1
        return b"event: %b\ndata: %b\n\n" % (str(told["type"]).encode(), orjson.dumps(told))
