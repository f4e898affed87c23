"""Gemini's own API: its requests read as a chat's, the same answers in its forms; knows no timing and no sockets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from proxy.simulated.answer import Answer
from proxy.simulated.dialects import Dialect
from proxy.simulated.refusals import RefusalError, invalid
from proxy.simulated.schema import Json, is_list, is_object
from proxy.simulated.schema_limits import subset_fault
from proxy.simulated.wire import STREAM_ERROR, Event, Head, Streaming
from proxy.simulated.wire_anthropic import parsed

_FINISHES = {"stop": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}
_MODES = {"AUTO": "auto", "NONE": "none", "ANY": "required"}


def chat_body(model: str, body: Json, *, stream: bool) -> Json:
    """Return a request of `:generateContent` as a chat's; raises RefusalError for what Gemini refuses."""
    system = _either(body, "system_instruction", "systemInstruction")
    first = [{"role": "system", "content": _text(system)}] if is_object(system) else []
    config = _either(body, "generationConfig", "generation_config")
    settings: Json = config if is_object(config) else {}
    chat: Json = {"model": model, "messages": [*first, *map(_message, _listed(body.get("contents")))], "stream": stream}
    if (limit := _either(settings, "max_output_tokens", "maxOutputTokens")) is not None:
        chat["max_tokens"] = limit
    functions = [f for tool in _listed(body.get("tools")) if is_object(tool) for f in _listed(_declared(tool))]
    if functions:
        chat |= {"tools": [_tool(function) for function in functions], "tool_choice": _choice(body)}
    return chat | _format(settings)


def _either(body: Json, *names: str) -> Any:
    return next((body[name] for name in names if name in body), None)


def _declared(tool: Json) -> Any:
    return _either(tool, "function_declarations", "functionDeclarations")


def _listed(value: Any) -> list[Any]:
    return value if is_list(value) else []


def _text(content: Json) -> str:
    return "\n".join(str(part.get("text", "")) for part in _listed(content.get("parts")) if is_object(part))


def _message(content: Any) -> Json:
    if not is_object(content):
        raise invalid("contents: expected objects", "contents")
    return {"role": "assistant" if content.get("role") == "model" else "user", "content": _text(content)}


def _tool(function: Json) -> Json:
    parameters = function.get("parameters")
    if is_object(parameters):
        _refuse(subset_fault(parameters), f"tools[0].function_declarations[0].parameters ({function.get('name')})")
    schema = parameters or _either(function, "parametersJsonSchema", "parameters_json_schema")
    return {"type": "function", "function": {"name": function.get("name"), "parameters": schema}}


def _refuse(fault: str | None, where: str) -> None:
    if fault:
        raise RefusalError(400, f"{where}: {fault}", param="tools")


def _choice(body: Json) -> Any:
    config = _either(body, "toolConfig", "tool_config")
    calling = _either(config, "functionCallingConfig", "function_calling_config") if is_object(config) else None
    if not is_object(calling):
        return "auto"
    allowed = _listed(_either(calling, "allowed_function_names", "allowedFunctionNames"))
    if calling.get("mode") == "ANY" and len(allowed) == 1:
        return {"type": "function", "function": {"name": allowed[0]}}
    return _MODES.get(str(calling.get("mode")), "auto")


def _format(settings: Json) -> Json:
    if _either(settings, "response_mime_type", "responseMimeType") != "application/json":
        return {}
    named = _either(settings, "response_json_schema", "responseJsonSchema")
    subset = _either(settings, "response_schema", "responseSchema")
    if is_object(subset):
        _refuse(subset_fault(subset), "generation_config.response_schema")
    schema = named or subset
    if not is_object(schema):
        return {"response_format": {"type": "json_object"}}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "response", "schema": schema}}}


def _usage(used: Json) -> Json:
    thoughts = used["completion_tokens_details"]["reasoning_tokens"]
    return {
        "promptTokenCount": used["prompt_tokens"],
        "candidatesTokenCount": used["completion_tokens"] - thoughts,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": used["total_tokens"],
    }


def _answer(head: Head, parts: list[Json], finish: str | None = None, usage: Json | None = None) -> bytes:
    candidate: Json = {"content": {"role": "model", "parts": parts}, "index": 0} | ({"finishReason": finish} if finish else {})
    body: Json = {"candidates": [candidate], "modelVersion": head.model, "responseId": head.id}
    return orjson.dumps(body | ({"usageMetadata": usage} if usage else {}))


def _parts(answer: Answer) -> list[Json]:
    if answer.tool is None:
        return [{"text": answer.text}] if answer.text else []
    return [{"functionCall": {"name": answer.tool, "args": parsed(text)}} for text in answer.calls or (answer.text,)]


class GeminiEvents:
    """Writes the events of one streamed answer."""

    end = b""
    error = STREAM_ERROR

    def __init__(self, head: Head, streaming: Streaming) -> None:
        self._head = head
        self._streaming = streaming
        self._finish = "STOP"

    def of(self, choice: int, answer: Answer) -> Iterator[Event]:  # noqa: ARG002 - there is one
        """Yield the events of the one choice that there is; a call comes whole."""
        if answer.tool is not None:
            yield Event(self._event(_parts(answer)), answer.tokens)
        chars = self._streaming.chars
        text = "" if answer.tool is not None else answer.text
        for start in range(0, len(text), chars):
            written = answer.tokens * min(1.0, (start + chars) / len(text))
            yield Event(self._event([{"text": text[start : start + chars]}]), written)
        self._finish = _FINISHES[answer.finish]
        if not self._streaming.include_usage:
            yield Event(self._event([], self._finish), answer.tokens)

    def _event(self, parts: list[Json], finish: str | None = None, usage: Json | None = None) -> bytes:
        return b"data: " + _answer(self._head, parts, finish, usage) + b"\r\n\r\n"

    def usage(self) -> bytes:
        """Return the event that tells why the answer ended, and the usage."""
        return self._event([], self._finish, _usage(self._streaming.used))


class GeminiWire:
    """How `:generateContent` writes its answers."""

    prefix = ""

    def completion(self, head: Head, answers: Sequence[Answer], used: Json, dialect: Dialect) -> bytes:  # noqa: ARG002 - there is one
        """Return the JSON of a whole answer."""
        return _answer(head, _parts(answers[0]), _FINISHES[answers[0].finish], _usage(used))

    def events(self, head: Head, streaming: Streaming) -> GeminiEvents:
        """Return the writer of a streamed answer."""
        return GeminiEvents(head, streaming)
