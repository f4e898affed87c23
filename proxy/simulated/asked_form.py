"""Reads the form that a chat body wants its answer in: a tool call, JSON of a schema, any JSON object, or text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from proxy.simulated.refusals import invalid
from proxy.simulated.schema import Json, is_list, is_object


@dataclass(frozen=True, slots=True)
class Form:
    """How the answer is wanted."""

    schema: Json | None = field(repr=False)
    """`{}`: any object; None: text."""
    tool: str | None = None
    """The tool to call; None: the answer is content."""
    by_name: bool = False
    """The tool is forced by its name."""


def functions_of(body: Json) -> list[Json]:
    """Return the functions of `tools`."""
    listed = body.get("tools")
    if listed is None:
        return []
    if not is_list(listed):
        raise invalid("Invalid 'tools': expected an array.", "tools")
    return [_function(tool, i) for i, tool in enumerate(listed)]


def _function(tool: Any, i: int) -> Json:
    function = tool.get("function") if is_object(tool) else None
    if not is_object(function) or not isinstance(function.get("name"), str):
        raise invalid(f"Missing required parameter: 'tools[{i}].function.name'.", f"tools[{i}].function.name")
    return function


def read_form(body: Json, functions: list[Json], *, last_role: str) -> Form:
    """Return the form of the answer; a call comes before a response format, and a tool's result is answered with words."""
    by_name: dict[str, Json] = {function["name"]: function for function in functions}
    choice = body.get("tool_choice")
    if choice not in (None, "none") and not functions:
        raise invalid("Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified.", "tool_choice")
    if is_object(choice):
        name = _forced(choice, by_name)
        return Form(_parameters(by_name[name]), name, by_name=True)
    if choice not in (None, "auto", "none", "required", "any"):
        raise invalid("Invalid value for 'tool_choice'.", "tool_choice")
    if by_name and (choice in ("required", "any") or (choice != "none" and last_role != "tool")):
        name, function = next(iter(by_name.items()))
        return Form(_parameters(function), name)
    return Form(_response_schema(body.get("response_format")))


def _forced(choice: Json, by_name: dict[str, Json]) -> str:
    function = choice.get("function")
    name = function.get("name") if is_object(function) else None
    if not isinstance(name, str) or name not in by_name:
        raise invalid("Invalid value for 'tool_choice': it names no tool that stands in 'tools'.", "tool_choice")
    return name


def _parameters(function: Json) -> Json:
    parameters = function.get("parameters")
    return parameters if is_object(parameters) else {"type": "object"}


def _response_schema(wanted: Any) -> Json | None:
    if wanted is None:
        return None
    match wanted.get("type") if is_object(wanted) else None:
        case "text":
            return None
        case "json_object":
            return {}
        case "json_schema":
            held = wanted.get("json_schema")
            if not is_object(held) or not is_object(held.get("schema")):
                raise invalid("Missing required parameter: 'response_format.json_schema.schema'.", "response_format.json_schema")
            return held["schema"]
        case _:
            raise invalid("Invalid value for 'response_format.type'.", "response_format.type")
