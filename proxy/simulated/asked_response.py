"""Reads the body of a Responses call as the chat body that the model behind it sees; raises RefusalError as OpenAI would refuse."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from proxy.simulated.refusals import RefusalError, invalid
from proxy.simulated.schema import Json, is_list, is_object

_MOST_STORED = 256
_PLAIN = ("model", "user", "temperature", "top_p", "stream", "metadata")
_UNSAID = frozenset({"reasoning", "web_search_call", "file_search_call", "computer_call", "code_interpreter_call"})


class Stored:
    """The conversations behind the last answers, for calls that go on from one."""

    def __init__(self) -> None:
        self._messages: OrderedDict[str, list[Json]] = OrderedDict()

    def keep(self, answer: str, messages: list[Json], said: str) -> None:
        """Keep what led to an answer and what it said; the oldest go."""
        self._messages[answer] = [*messages, {"role": "assistant", "content": said}]
        if len(self._messages) > _MOST_STORED:
            self._messages.popitem(last=False)

    def before(self, named: Any) -> list[Json]:
        """Return the conversation behind an answer; none where none is named."""
        if named is None:
            return []
        messages = self._messages.get(named) if isinstance(named, str) else None
        if messages is None:
            raise RefusalError(
                400, f"Previous response with id {named!r} not found.", code="previous_response_not_found", param="previous_response_id"
            )
        return messages


def as_chat(body: Json, stored: Stored) -> tuple[Json, list[Json]]:
    """Return the chat body, and the conversation in it that a later call may go on from: instructions hold for one call alone."""
    chat: Json = {name: body[name] for name in _PLAIN if name in body}
    instructions = body.get("instructions")
    system = [{"role": "system", "content": instructions}] if isinstance(instructions, str) and instructions else []
    conversation = [*stored.before(body.get("previous_response_id")), *_said(body.get("input"))]
    chat["messages"] = [*system, *conversation]
    if tools := body.get("tools"):
        chat["tools"] = _tools(tools)
        chat["tool_choice"] = _choice(body.get("tool_choice"))
    if (limit := body.get("max_output_tokens")) is not None:
        chat["max_completion_tokens"] = limit
    if (form := _form(body.get("text"))) is not None:
        chat["response_format"] = form
    return chat, conversation


def _said(given: Any) -> list[Json]:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not is_list(given):
        raise invalid("Invalid type for 'input': expected one of a string or an array of items.", "input")
    return [message for i, item in enumerate(given) if (message := _message(item, f"input[{i}]")) is not None]


def _message(item: Any, where: str) -> Json | None:
    if not is_object(item):
        raise invalid(f"Invalid type for '{where}': expected an object.", where)
    match item.get("type"):
        case None | "message":
            return {"role": item.get("role"), "content": item.get("content")}
        case "function_call":
            return {"role": "assistant", "content": None}
        case "function_call_output":
            return {"role": "tool", "content": str(item.get("output"))}
        case "item_reference":
            raise RefusalError(404, f"Item with id {item.get('id')!r} not found.", param="input")
        case str(kind) if kind in _UNSAID:
            return None
        case kind:
            raise invalid(f"Invalid value for '{where}.type': {kind!r}.", f"{where}.type")


def _tools(tools: Any) -> list[Json]:
    if not is_list(tools):
        raise invalid("Invalid type for 'tools': expected an array of objects.", "tools")
    if not all(is_object(tool) and tool.get("type") == "function" for tool in tools):
        raise invalid("This provider has functions only.", "tools")
    return [{"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}} for tool in tools]


def _choice(choice: Any) -> Any:
    if is_object(choice) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice


def _form(text: Any) -> Any:
    form = text.get("format") if is_object(text) else None
    if not is_object(form) or form.get("type") != "json_schema":
        return form
    if not is_object(form.get("schema")) or not isinstance(form.get("name"), str):
        raise invalid("Missing required parameter: 'text.format.schema'.", "text.format.schema")
    return {"type": "json_schema", "json_schema": {name: value for name, value in form.items() if name != "type"}}
