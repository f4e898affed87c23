"""Reads a Responses body as the chat body of equal meaning; what chat has no word for makes the call go alone.

So the same lesson asked for by either API is one kind of lesson, and calls of both may share a batch. Total: any JSON value
gives a `ChatRequest` or the reason why it can't be read as one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

from proxy.lessons.forms.chat import MAX_MESSAGES, NEUTRAL, ChatRequest, is_one_of, read_chat
from proxy.model import Json

PATH = "/v1/responses"

_SAME = frozenset(
    {"model", "metadata", "user", "safety_identifier", "temperature", "top_p", "parallel_tool_calls", "service_tier", "stream"}
    | {"prompt_cache_key", "prompt_cache_retention", "frequency_penalty", "presence_penalty", "top_k", "min_p", "repetition_penalty"}
)
"""Fields that mean the same in both APIs, under the same name."""
_TRANSLATED = frozenset({"instructions", "input", "tools", "tool_choice", "text", "reasoning", "max_output_tokens"})
_OBSTACLES: dict[str, tuple[str, tuple[Any, ...]]] = NEUTRAL | {
    # as `forms.chat.NEUTRAL`: why a call that sets the field goes alone, and the values that change no lesson
    "background": ("background", (False,)),
    # nothing of a merged answer is stored, and it says so: what names it later is refused, and its site goes alone from then on
    "store": ("store", (True, False)),
    # a batch that is too long goes alone in the end, as its caller wrote it
    "truncation": ("truncation", ("disabled", "auto")),
    # a merged answer has no reasoning item that could carry it
    "include": ("include", ([], ["reasoning.encrypted_content"])),
    "prompt": ("prompt_template", ()),
    "max_tool_calls": ("hosted_tools", ()),
}
_READ_TOOLS = 2
"""Two are as many as any number: such a call goes alone."""


def read_responses(body: Any) -> ChatRequest | str:
    """Return the request, or a short reason where the body can't be read as one."""
    if not isinstance(body, dict):
        return "body"
    known = cast("Json", body)
    told = _read_input(known)
    if isinstance(told, str):
        return told
    answer = _answer_form(known)
    chat = {name: value for name, value in known.items() if name in _SAME and value is not None}
    request = read_chat(chat | {"messages": told.messages} | answer.fields)
    if isinstance(request, str):
        return request
    obstacle = _field_obstacle(known) or told.obstacle or answer.obstacle or request.obstacle
    return replace(request, obstacle=obstacle)


def _field_obstacle(body: Json) -> str | None:
    for name, value in body.items():
        if value is None or name in _SAME or name in _TRANSLATED:
            continue
        if name == "stream_options":
            # nothing in it changes what is said
            if not isinstance(value, dict):
                return "stream_options"
            continue
        # a field that nobody described may mean something else in the other API
        reason, neutral = _OBSTACLES.get(name, ("unknown_field", ()))
        if not is_one_of(value, neutral):
            return reason
    return None


@dataclass(slots=True)
class _Input:
    messages: list[Json] = field(default_factory=list[Json], repr=False)
    obstacle: str | None = None


def _read_input(body: Json) -> _Input | str:
    """Return `instructions` and `input` as messages."""
    told = _Input()
    instructions = body.get("instructions")
    if isinstance(instructions, str) and instructions:
        told.messages.append({"role": "system", "content": instructions})
    elif instructions:
        told.obstacle = "instructions"
    given: Any = body.get("input")
    if isinstance(given, str):
        told.messages.append({"role": "user", "content": given})
        return told
    if not isinstance(given, list) or not given:
        return "input"
    items = cast("list[Any]", given)
    if len(items) > MAX_MESSAGES:
        return "many_messages"
    for item in items:
        if not isinstance(item, dict):
            return "input"
        message, obstacle = _message(cast("Json", item))
        told.messages.append(message)
        told.obstacle = told.obstacle or obstacle
    return told


def _message(item: Json) -> tuple[Json, str | None]:
    """Return an item of the input as a message, and what speaks against merging."""
    kind = item.get("type")
    if kind not in (None, "message"):
        # the call goes alone whatever else it says, so the item need not be translated
        return {"role": "assistant"}, "previous_response_id" if kind == "item_reference" else "history"
    content, obstacle = _content(item.get("content"))
    if any(name not in {"type", "role", "content"} and value is not None for name, value in item.items()):
        obstacle = obstacle or "message_fields"
    return {"role": item.get("role"), "content": content}, obstacle


def _content(content: Any) -> tuple[Any, str | None]:
    """Return a message's content in chat's words; a single text stands alone, as both APIs take it."""
    if not isinstance(content, list) or len(cast("list[Any]", content)) > MAX_MESSAGES:
        return cast("Any", content), None
    parts: list[Json] = []
    for part in cast("list[Any]", content):
        known = cast("Json", part) if isinstance(part, dict) else {}
        text = known.get("text")
        if known.get("type") != "input_text" or not isinstance(text, str):
            return "", "parts"
        if any(name not in {"type", "text"} and value is not None for name, value in known.items()):
            return "", "message_fields"
        parts.append({"type": "text", "text": text})
    return (parts[0]["text"] if len(parts) == 1 else parts), None


@dataclass(slots=True)
class _Answer:
    fields: Json = field(default_factory=dict[str, Any], repr=False)
    """Chat's fields for the form and length of the answer."""
    obstacle: str | None = None


def _answer_form(body: Json) -> _Answer:
    answer = _Answer()
    _read_tools(body, answer)
    _read_text(body.get("text"), answer)
    _read_reasoning(body.get("reasoning"), answer)
    if (limit := body.get("max_output_tokens")) is not None:
        answer.fields["max_completion_tokens"] = limit
    return answer


def _read_tools(body: Json, answer: _Answer) -> None:
    tools, choice = body.get("tools"), body.get("tool_choice")
    if isinstance(tools, list) and tools:
        answer.fields["tools"] = [_tool(tool) for tool in cast("list[Any]", tools)[:_READ_TOOLS]]
    elif tools:
        answer.fields["tools"] = tools
    elif choice in ("auto", "none"):
        # without tools these are as good as nothing, which this API takes and chat doesn't
        return
    if choice is not None:
        answer.fields["tool_choice"] = _choice(choice)


def _tool(tool: Any) -> Any:
    known = cast("Json", tool) if isinstance(tool, dict) else {}
    if known.get("type") != "function":
        return cast("Any", tool)
    return {"type": "function", "function": {name: value for name, value in known.items() if name != "type" and value is not None}}


def _choice(choice: Any) -> Any:
    match choice:
        case {"type": "function", "name": name, **others} if not others:
            return {"type": "function", "function": {"name": name}}
        case _:
            return choice


def _read_text(text: Any, answer: _Answer) -> None:
    if text is None:
        return
    known = cast("Json", text) if isinstance(text, dict) else {"": text}
    for name, value in known.items():
        if value is None:
            continue
        if name == "verbosity":
            answer.fields["verbosity"] = value
        elif name != "format":
            answer.obstacle = answer.obstacle or "text"
        elif value != {"type": "text"}:
            answer.fields["response_format"] = _format(value)


def _format(value: Any) -> Any:
    known = cast("Json", value) if isinstance(value, dict) else {}
    if known.get("type") != "json_schema":
        return cast("Any", value)
    named = {name: part for name, part in known.items() if name != "type" and part is not None}
    return {"type": "json_schema", "json_schema": named}


def _read_reasoning(reasoning: Any, answer: _Answer) -> None:
    if reasoning is None:
        return
    known = cast("Json", reasoning) if isinstance(reasoning, dict) else {"": reasoning}
    for name, value in known.items():
        if value is None:
            continue
        if name == "effort":
            answer.fields["reasoning_effort"] = value
        else:
            # a summary is a part of the answer that no batch brings
            answer.obstacle = answer.obstacle or "reasoning"
