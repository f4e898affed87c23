"""Reads a chat completions body into what recognising needs; it decides what can't be merged by form, not what a lesson is.

Total: any JSON value gives a `ChatRequest` or the reason why it can't be read as one. Cheap checks stand first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, cast

from proxy.lessons.structure import leaves_the_schema, top_level_fields
from proxy.model import Json, Shape, ToolForce

PATH = "/v1/chat/completions"
MAX_MESSAGES = 64
MAX_TEXT_CHARS = 100_000
"""Prompts beyond this are not worth a batch, and reading them is not worth its time."""
MAX_NAME_CHARS = 256

NEUTRAL: dict[str, tuple[str, tuple[Any, ...]]] = {
    # field: (why a call that sets it goes alone, the values that ask for nothing); null never asks for anything
    "n": ("n", (1,)),
    "best_of": ("n", (1,)),
    "seed": ("seed", ()),
    "logprobs": ("logprobs", (False,)),
    "top_logprobs": ("logprobs", (0,)),
    "prompt_logprobs": ("logprobs", (0,)),
    "logit_bias": ("logit_bias", ({},)),
    "stop": ("stop", ([], "")),
    "stop_token_ids": ("stop", ([],)),
    "prediction": ("prediction", ()),
    "audio": ("audio", ()),
    "modalities": ("modalities", (["text"], [])),
    "store": ("store", (False,)),
    "functions": ("functions", ([],)),
    "function_call": ("functions", ()),
    "previous_response_id": ("previous_response_id", ()),
    "conversation": ("previous_response_id", ()),
    "web_search_options": ("hosted_tools", ()),
    # servers' own ways to force the form of the whole answer: a batch's answer has another form
    "guided_json": ("guided_output", ()),
    "guided_regex": ("guided_output", ()),
    "guided_choice": ("guided_output", ()),
    "guided_grammar": ("guided_output", ()),
    "structured_outputs": ("guided_output", ()),
    "grammar": ("guided_output", ()),
    "json_schema": ("guided_output", ()),
    "regex": ("guided_output", ()),
    "ebnf": ("guided_output", ()),
    "prefix": ("guided_output", (False,)),
    "echo": ("guided_output", (False,)),
    "suffix": ("guided_output", ("",)),
}
_LIMITS = ("max_tokens", "max_completion_tokens")
_CUT_OFF = re.compile(rb'"finish_reason"\s*:\s*"length"')


@dataclass(frozen=True, slots=True)
class Asked:
    """The form of the answer that a body asks for."""

    shape: Shape = "text"
    name: str | None = None
    description: str = field(default="", repr=False)
    schema: Json | None = field(default=None, repr=False)
    force: ToolForce | None = None
    obstacle: str | None = None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A call as recognising sees it, whichever API it came by."""

    body: Json = field(repr=False)
    """The call as a chat body."""
    model: str
    asked: Asked
    fields: frozenset[str]
    """Names of the schema's top-level properties, folded (`structure.fold`); empty where there is no such object."""
    system: tuple[str, ...] = field(repr=False)
    users: tuple[str, ...] = field(repr=False)
    token_limit: int | None
    token_limit_field: str | None
    stream: bool
    include_usage: bool
    deterministic: bool
    obstacle: str | None
    """Why the call goes alone whatever its prompt says; None: nothing in its form speaks against merging."""


def read_chat(body: Any) -> ChatRequest | str:
    """Return the request, or a short reason where the body can't be read as a chat request."""
    if not isinstance(body, dict):
        return "body"
    known = cast("Json", body)
    model = known.get("model")
    if not isinstance(model, str) or not model or len(model) > MAX_NAME_CHARS:
        return "model"
    texts = _read_messages(known.get("messages"))
    if isinstance(texts, str):
        return texts
    asked = _read_answer_form(known)
    limit_field, limit, limit_obstacle = _read_limit(known)
    options, stream = known.get("stream_options"), known.get("stream")
    return ChatRequest(
        body=known,
        model=model,
        asked=asked,
        fields=frozenset() if asked.schema is None else top_level_fields(asked.schema),
        system=texts.system,
        users=texts.users,
        token_limit=limit,
        token_limit_field=limit_field,
        stream=stream is True,
        include_usage=isinstance(options, dict) and cast("Json", options).get("include_usage") is True,
        deterministic=_is_zero(known.get("temperature")),
        obstacle=_field_obstacle(known) or texts.obstacle or asked.obstacle or limit_obstacle or _stream_obstacle(stream, options),
    )


def was_cut_off(answer: bytes) -> bool:
    """Tell whether a JSON answer ended at its token limit. Inside a string the quotes would be escaped."""
    return _CUT_OFF.search(answer) is not None


def _is_zero(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == 0


def _field_obstacle(body: Json) -> str | None:
    if NEUTRAL.keys().isdisjoint(body):
        return None
    for name, (reason, neutral) in NEUTRAL.items():
        value = body.get(name)
        if value is not None and not is_one_of(value, neutral):
            return reason
    return None


def is_one_of(value: Any, neutral: tuple[Any, ...]) -> bool:
    """Tell whether a field's value asks for nothing; types are compared too: true is not 1."""
    return any(type(value) is type(allowed) and value == allowed for allowed in neutral)


def _stream_obstacle(stream: Any, options: Any) -> str | None:
    if stream is not None and not isinstance(stream, bool):
        return "stream"
    return None if options is None or isinstance(options, dict) else "stream_options"


def _read_limit(body: Json) -> tuple[str | None, int | None, str | None]:
    named = [name for name in _LIMITS if body.get(name) is not None]
    if not named:
        return None, None, None
    if len(named) > 1:
        return None, None, "token_limits"
    value = body[named[0]]
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        return None, None, "token_limit"
    return named[0], value, None


@dataclass(slots=True)
class _Texts:
    system: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    obstacle: str | None = None


def _read_messages(messages: Any) -> _Texts | str:
    if not isinstance(messages, list) or not messages:
        return "messages"
    if len(cast("list[Any]", messages)) > MAX_MESSAGES:
        return "many_messages"
    texts = _Texts()
    chars = 0
    for message in cast("list[Any]", messages):
        if not isinstance(message, dict):
            return "messages"
        chars += _read_message(cast("Json", message), texts)
        if chars > MAX_TEXT_CHARS:
            return "too_long"
    return texts


def _read_message(message: Json, texts: _Texts) -> int:
    """Put the message's text where it belongs and return its length."""
    given = message.get("role")
    role = given if isinstance(given, str) else ""
    if role == "user":
        text, obstacle = _text_of(message.get("content"), plain=True)
        texts.users += (text,)
        if any(name not in {"role", "content"} and value is not None for name, value in message.items()):
            obstacle = obstacle or "message_fields"
    elif role in {"system", "developer"}:
        text, obstacle = _text_of(message.get("content"), plain=False)
        texts.system += (text,)
    else:
        text, obstacle = "", "history" if role in {"assistant", "tool", "function"} else "role"
    texts.obstacle = texts.obstacle or obstacle
    return len(text)


def _text_of(content: Any, *, plain: bool) -> tuple[str, str | None]:
    """Return the text and what speaks against merging; `plain`: a part may hold nothing but its text."""
    if isinstance(content, str):
        return content, None
    if not isinstance(content, list) or len(cast("list[Any]", content)) > MAX_MESSAGES:
        return "", "content"
    texts: list[str] = []
    obstacle = None
    for part in cast("list[Any]", content):
        known = cast("Json", part) if isinstance(part, dict) else {}
        text = known.get("text")
        if not isinstance(text, str) or known.get("type") != "text":
            obstacle = "parts"
            continue
        texts.append(text)
        if plain and known.keys() - {"type", "text"}:
            obstacle = obstacle or "message_fields"
    return "\n".join(texts), obstacle


def _read_answer_form(body: Json) -> Asked:
    tools, form, choice = body.get("tools"), body.get("response_format"), body.get("tool_choice")
    if tools is not None and tools != []:
        asked = _read_tool(tools, choice)
        if asked.obstacle is None and form is not None and form != {"type": "text"}:
            return Asked(asked.shape, asked.name, asked.description, asked.schema, asked.force, "tool_and_format")
        return asked
    asked = _read_format(form)
    if choice is not None:
        return Asked(asked.shape, asked.name, asked.description, asked.schema, None, "tool_choice")
    return asked


def _read_tool(tools: Any, choice: Any) -> Asked:
    if not isinstance(tools, list):
        return Asked(obstacle="tools")
    listed = cast("list[Any]", tools)
    if len(listed) > 1:
        return Asked(obstacle="several_tools")
    tool = cast("Json", listed[0]) if isinstance(listed[0], dict) else {}
    if tool.get("type") != "function":
        return Asked(obstacle="hosted_tools")
    function = tool.get("function")
    name = cast("Json", function).get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARS:
        return Asked(obstacle="tools")
    known = cast("Json", function)
    schema, description = known.get("parameters"), known.get("description")
    force, obstacle = _read_choice(choice, name)
    if not isinstance(schema, dict):
        return Asked("tool", name, "", None, force, obstacle or "no_schema")
    parameters = cast("Json", schema)
    obstacle = obstacle or leaves_the_schema(parameters)
    return Asked("tool", name, description if isinstance(description, str) else "", parameters, force, obstacle)


def _read_choice(choice: Any, name: str) -> tuple[ToolForce | None, str | None]:
    if choice is None or choice == "auto":
        return "auto", None
    if choice == "required":
        return "required", None
    if choice == {"type": "function", "function": {"name": name}}:
        return "name", None
    return None, "tool_choice_none" if choice == "none" else "tool_choice"


def _read_format(form: Any) -> Asked:
    if form is None:
        return Asked()
    asked = cast("Json", form) if isinstance(form, dict) else {}
    kind = asked.get("type")
    if kind in ("text", "json_object"):
        return Asked(kind)
    wrapped: Any = asked.get("json_schema") if kind == "json_schema" else None
    known = cast("Json", wrapped) if isinstance(wrapped, dict) else {}
    name, schema, description = known.get("name"), known.get("schema"), known.get("description")
    if not isinstance(schema, dict) or not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARS:
        return Asked(obstacle="response_format")
    inner = cast("Json", schema)
    return Asked("json_schema", name, description if isinstance(description, str) else "", inner, None, leaves_the_schema(inner))
