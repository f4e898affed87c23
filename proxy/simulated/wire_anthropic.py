"""Anthropic's own API: its requests read as a chat's, the same answers in its forms; knows no timing and no sockets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from proxy.simulated.answer import Answer
from proxy.simulated.dialects import Dialect
from proxy.simulated.refusals import RefusalError, invalid
from proxy.simulated.schema import Json, is_list, is_object
from proxy.simulated.schema_limits import output_fault
from proxy.simulated.wire import STREAM_ERROR, Event, Head, Streaming

_FIELDS = frozenset(
    {
        "cache_control", "container", "context_management", "max_tokens", "mcp_servers", "messages", "metadata", "model",
        "output_config", "output_format", "service_tier", "speed", "stop_sequences", "stream", "system", "temperature", "thinking",
        "tool_choice", "tools", "top_k", "top_p",
    }
)  # fmt: skip
_STOPS = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens", "content_filter": "refusal"}


def chat_body(body: Json) -> Json:
    """Return a request of `/v1/messages` as a chat's; raises RefusalError for what Anthropic refuses."""
    if odd := body.keys() - _FIELDS:
        raise invalid(f"{min(odd)}: Extra inputs are not permitted", min(odd))
    if not isinstance(body.get("max_tokens"), int):
        raise invalid("max_tokens: Field required", "max_tokens")
    thinking = body.get("thinking")
    thinks = is_object(thinking) and thinking.get("type") in ("enabled", "adaptive")
    choice = _choice(body.get("tool_choice"))
    if thinks and choice not in (None, "auto", "none"):
        raise invalid("Thinking may not be enabled when tool_choice forces tool use.", "tool_choice")
    system = body.get("system")
    first = [{"role": "system", "content": _text(system)}] if system else []
    chat: Json = {"model": body.get("model"), "messages": [*first, *map(_message, _listed(body.get("messages")))]}
    chat |= {"max_tokens": body["max_tokens"], "stream": body.get("stream"), **_format(body)}
    if tools := [_tool(tool) for tool in _listed(body.get("tools"))]:
        chat |= {"tools": tools, "tool_choice": choice}
    return chat | ({"reasoning_effort": "low"} if thinks else {})


def _listed(value: Any) -> list[Any]:
    return value if is_list(value) else []


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in _listed(content) if is_object(part))


def _message(message: Any) -> Json:
    if not is_object(message):
        raise invalid("messages: Input should be an object", "messages")
    return {"role": message.get("role"), "content": _text(message.get("content"))}


def _tool(tool: Any) -> Json:
    function = {"name": tool.get("name"), "parameters": tool.get("input_schema")} if is_object(tool) else None
    return {"type": "function", "function": function}


def _choice(choice: Any) -> Any:
    match choice:
        case {"type": "tool", "name": name}:
            return {"type": "function", "function": {"name": name}}
        case {"type": "any"}:
            return "required"
        case {"type": kind}:
            return kind
        case _:
            return None


def _format(body: Json) -> Json:
    config = body.get("output_config")
    wanted = body.get("output_format") or (config.get("format") if is_object(config) else None)
    if not is_object(wanted):
        return {}
    schema = wanted.get("schema")
    fault = output_fault(schema) if is_object(schema) else "a schema is needed"
    if fault:
        raise RefusalError(400, f"output_format.schema: {fault}", param="output_format")
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "output", "schema": schema}}}


def _event(kind: str, **more: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **more}))


class AnthropicEvents:
    """Writes the events of one streamed answer."""

    end = _event("message_stop")
    error = STREAM_ERROR

    def __init__(self, head: Head, streaming: Streaming) -> None:
        self._head = head
        self._streaming = streaming
        self._finish = "end_turn"

    def of(self, choice: int, answer: Answer) -> Iterator[Event]:
        """Yield the events of the one choice that there is."""
        told = self._streaming.used["prompt_tokens"] if self._streaming.include_usage else 0
        message: Json = {"id": self._head.id, "type": "message", "role": "assistant", "model": self._head.model, "content": []}
        yield Event(_event("message_start", message=message | {"usage": {"input_tokens": told, "output_tokens": 1}}))
        if answer.thoughts:
            span = (0.0, float(answer.thought_tokens))
            yield from self._block(choice, {"type": "thinking", "thinking": ""}, ("thinking_delta", "thinking"), answer.thoughts, span)
        place = choice + bool(answer.thoughts)
        for i, text in enumerate(_parts(answer)):
            span = (float(answer.thought_tokens), float(answer.tokens))
            if answer.tool is None:
                yield from self._block(place + i, {"type": "text", "text": ""}, ("text_delta", "text"), text, span)
            else:
                opened: Json = {"type": "tool_use", "id": f"toolu_{i}", "name": answer.tool, "input": {}}
                yield from self._block(place + i, opened, ("input_json_delta", "partial_json"), text, span)
        self._finish = _stop(answer)
        if not self._streaming.include_usage:
            yield Event(self.usage(), answer.tokens)

    def _block(self, index: int, opened: Json, delta: tuple[str, str], text: str, span: tuple[float, float]) -> Iterator[Event]:
        chars = self._streaming.chars
        yield Event(_event("content_block_start", index=index, content_block=opened), span[0])
        for start in range(0, len(text), chars):
            piece = {"type": delta[0], delta[1]: text[start : start + chars]}
            written = span[0] + (span[1] - span[0]) * min(1.0, (start + chars) / len(text))
            yield Event(_event("content_block_delta", index=index, delta=piece), written)
        yield Event(_event("content_block_stop", index=index), span[1])

    def usage(self) -> bytes:
        """Return the event that tells why the answer ended, and the usage."""
        told = self._streaming.used["completion_tokens"] if self._streaming.include_usage else 0
        return _event("message_delta", delta={"stop_reason": self._finish, "stop_sequence": None}, usage={"output_tokens": told})


def _parts(answer: Answer) -> tuple[str, ...]:
    return answer.calls or ((answer.text,) if answer.text else ())


def _stop(answer: Answer) -> str:
    return "tool_use" if answer.tool is not None and answer.finish == "stop" else _STOPS[answer.finish]


class AnthropicWire:
    """How `/v1/messages` writes its answers."""

    prefix = "msg_"

    def completion(self, head: Head, answers: Sequence[Answer], used: Json, dialect: Dialect) -> bytes:  # noqa: ARG002 - there is one
        """Return the JSON of a whole answer."""
        answer = answers[0]
        thoughts: list[Json] = [{"type": "thinking", "thinking": answer.thoughts, "signature": "s"}] if answer.thoughts else []
        content = [*thoughts, *(_block(answer, i, text) for i, text in enumerate(_parts(answer)))]
        body: Json = {"id": head.id, "type": "message", "role": "assistant", "model": head.model, "content": content}
        counts = {"input_tokens": used["prompt_tokens"], "output_tokens": used["completion_tokens"]}
        return orjson.dumps(body | {"stop_reason": _stop(answer), "stop_sequence": None, "usage": counts})

    def events(self, head: Head, streaming: Streaming) -> AnthropicEvents:
        """Return the writer of a streamed answer."""
        return AnthropicEvents(head, streaming)


def _block(answer: Answer, i: int, text: str) -> Json:
    if answer.tool is None:
        return {"type": "text", "text": text}
    return {"type": "tool_use", "id": f"toolu_{i}", "name": answer.tool, "input": parsed(text)}


def parsed(arguments: str) -> Json:
    """Return a call's arguments as an object; an empty one where they are none."""
    try:
        value: Any = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return {}
    return value if is_object(value) else {}
