"""Reads the body of a request for text: what is asked for, about what, in which form; raises RefusalError as OpenAI would refuse."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import orjson

from proxy.simulated.asked_form import Form, functions_of, read_form
from proxy.simulated.dialects import Dialect, read_dialect
from proxy.simulated.entries import Entries, find_entries
from proxy.simulated.faults import FAULTS, Fault, read_model
from proxy.simulated.limits import refuse, thinks
from proxy.simulated.refusals import RefusalError, invalid
from proxy.simulated.schema import Json, is_list, is_object
from proxy.simulated.schema_limits import unbounded
from proxy.simulated.shape import shapes_in
from proxy.simulated.tokens import Tokenizer

_MOST_CHOICES = 128
_JSON_IN_WORDS = re.compile(r"\b(?:JSON only|only (?:with |in )?(?:valid )?JSON)\b", re.IGNORECASE)
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_USUAL_SHAPE: Json = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "content": {"type": "string"},
        "key_points": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["title", "content", "key_points"],
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One understood request."""

    model: str
    """As the caller wrote it."""
    dialect: Dialect
    thinks: bool
    """The model has thoughts before it writes."""
    declared: bool
    """The answer's schema stands in the request, and is not only read out of its words."""
    endless: bool
    """A string of the answer never ends: the dialect's grammar lets it go on, and the schema sets no bound."""
    fault: Fault | None
    """The fault that hits this very request."""
    request: str = field(repr=False)
    """The last user message."""
    before: str = field(repr=False)
    """The text of all other messages."""
    form: Form
    """How the answer is wanted; its schema is never `{}`."""
    shapes: tuple[Json, ...] = field(repr=False)
    """What an object of no declared members should look like, the likeliest first."""
    entries: Entries | None = field(repr=False)
    """How several things are asked for at once; None: one is."""
    choices: int
    limit: int | None
    """Output tokens of a choice, at most."""
    stream: bool
    include_usage: bool
    prompt_tokens: int


def read_body(raw: bytes) -> Json:
    """Return the JSON object of a request."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise invalid(f"We could not parse the JSON body of your request: {error}") from None
    if not is_object(body):
        raise invalid("The body of your request must be a JSON object.")
    return body


@dataclass(frozen=True, slots=True)
class Named:
    """What a model's name says."""

    model: str
    """As it is written."""
    plain: str
    """Without dialect and fault."""
    fault: Fault | None
    dialect: Dialect


def read_model_name(body: Json, dialect: str = "plain") -> Named:
    """Return what the model's name says; `dialect`: of names that begin with none."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise invalid("you must provide a model parameter", "model")
    rest, spoken = read_dialect(model, dialect)
    try:
        return Named(model, *read_model(rest), spoken)
    except KeyError:
        known = ", ".join(FAULTS)
        raise RefusalError(404, f"This provider knows no such fault; there are: {known}", code="model_not_found", param="model") from None


def read_chat(body: Json, tokens: Tokenizer, dialect: str = "plain") -> Asked:
    """Return what a chat body asks for; `dialect`: of models whose names begin with none.

    Its prompt tokens are those of the messages' texts, and of the compact JSON of each tool's function and of the
    response's schema.
    """
    texts = _texts(body.get("messages"))
    last_user = max((i for i, (role, _) in enumerate(texts) if role == "user"), default=-1)
    request = texts[last_user][1] if last_user >= 0 else ""
    before = "\n\n".join(text for i, (_, text) in enumerate(texts) if i != last_user)
    functions = functions_of(body)
    form = read_form(body, functions, last_role=texts[-1][0])
    response = body.get("response_format")
    schemas = [*functions, response["json_schema"]] if is_object(response) and "json_schema" in response else functions
    counted = [text for _, text in texts] + [orjson.dumps(schema).decode() for schema in schemas]
    named = read_model_name(body, dialect)
    refuse(body, named.plain, named.dialect)
    return _asked(body, named, (before, request), form, sum(map(tokens.count, counted)))


def read_text(body: Json, tokens: Tokenizer) -> Asked:
    """Return what a text completion's body asks for; several prompts are read as one, with a choice for each."""
    prompt = body.get("prompt")
    listed: list[Any] = prompt if is_list(prompt) else [prompt]
    prompts = [text for text in listed if isinstance(text, str)]
    if not prompts or len(prompts) < len(listed):
        raise invalid("Invalid 'prompt': expected a string or an array of strings.", "prompt")
    request = "\n\n".join(prompts)
    return _asked(body, read_model_name(body), ("", request), Form(None), tokens.count(request), prompts=len(prompts))


def _asked(body: Json, named: Named, texts: tuple[str, str], form: Form, prompt_tokens: int, *, prompts: int = 1) -> Asked:
    fault = named.fault
    before, request = texts
    prompt = f"{before}\n\n{request}"
    if form.schema is None and _JSON_IN_WORDS.search(request):
        form = Form({})
    declared = bool(form.schema)
    endless = named.dialect.bounded and form.schema is not None and unbounded(form.schema)
    form, shapes = _shaped(form, prompt)
    entries = None if form.schema is None else find_entries(form.schema, form.schema, prompt)
    options = body.get("stream_options")
    return Asked(
        model=named.model,
        dialect=named.dialect,
        thinks=thinks(named.plain, named.dialect) or (named.dialect.thinks_when_asked and "reasoning_effort" in body),
        declared=declared,
        endless=endless,
        fault=fault if fault is not None and fault.hits(batch=entries is not None) else None,
        request=request,
        before=before,
        form=form,
        shapes=shapes,
        entries=entries,
        choices=prompts * (_whole(body, "n", _MOST_CHOICES) or 1),
        limit=_whole(body, "max_completion_tokens") or _whole(body, "max_tokens") or named.dialect.default_limit,
        stream=body.get("stream") is True,
        include_usage=is_object(options) and options.get("include_usage") is True,
        prompt_tokens=prompt_tokens,
    )


def _shaped(form: Form, prompt: str) -> tuple[Form, tuple[Json, ...]]:
    """Look for shapes in the prompt where the schema leaves an object's members open; any object takes the likeliest."""
    if form.schema is None or not _is_open(form.schema):
        return form, (_USUAL_SHAPE,)
    shapes = shapes_in(prompt)
    if form.schema or form.tool:
        return form, (*shapes, _USUAL_SHAPE)
    several = (shape for shape in shapes if find_entries(shape, shape, prompt) is not None)
    chosen = next(several, shapes[0] if shapes else _USUAL_SHAPE)
    return Form(chosen), (*(shape for shape in shapes if shape is not chosen), _USUAL_SHAPE)


def _is_open(schema: Json) -> bool:
    text = orjson.dumps(schema)
    return not schema or text.count(b'"type":"object"') > text.count(b'"properties":')


def _texts(messages: Any) -> list[tuple[str, str]]:
    """Return role and text of each message."""
    if not is_list(messages) or not messages:
        raise invalid("Invalid 'messages': expected an array with at least one message.", "messages")
    return [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _message(message: Any, where: str) -> tuple[str, str]:
    role = message.get("role") if is_object(message) else None
    if not isinstance(role, str) or role not in _ROLES:
        raise invalid(f"Invalid '{where}.role': expected one of {', '.join(sorted(_ROLES))}.", f"{where}.role")
    content = message.get("content")
    if isinstance(content, str):
        return role, content
    if content is None and role == "assistant":
        return role, ""
    if not is_list(content):
        raise invalid(f"Invalid '{where}.content': expected a string or an array of parts.", f"{where}.content")
    texts = (part.get("text") for part in content if is_object(part))
    return role, "\n".join(text for text in texts if isinstance(text, str))


def _whole(body: Json, name: str, most: int | None = None) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most is not None and value > most):
        raise invalid(f"Invalid '{name}': expected an integer of 1 {f'to {most}' if most else 'or more'}.", name)
    return value
