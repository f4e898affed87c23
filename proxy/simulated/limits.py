"""Refuses the requests that a dialect's provider refuses; knows nothing of answers."""

from __future__ import annotations

from fnmatch import fnmatchcase

from proxy.simulated.dialects import Dialect
from proxy.simulated.refusals import RefusalError, invalid
from proxy.simulated.schema import Json, is_list, is_object
from proxy.simulated.schema_limits import strict_fault


def thinks(model: str, dialect: Dialect) -> bool:
    """Tell whether the model (its plain name) thinks before it writes."""
    return any(fnmatchcase(model.lower(), pattern) for pattern in dialect.reasoning_models)


def refuse(body: Json, model: str, dialect: Dialect) -> None:
    """Raise RefusalError where the provider takes no such chat body; `model` is the plain name."""
    _check_fields(body, dialect)
    _check_choice(body, dialect)
    _check_format(body, model, dialect)
    if isinstance(body.get("n"), int) and body["n"] > dialect.most_choices:
        raise invalid(f"'n' : number must be at most {dialect.most_choices}", "n")
    if thinks(model, dialect) and dialect.thinkers_limit != "max_tokens" and "max_tokens" in body:
        said = f"Unsupported parameter: 'max_tokens' is not supported with this model. Use '{dialect.thinkers_limit}' instead."
        raise RefusalError(400, said, code="unsupported_parameter", param="max_tokens")
    if dialect.strict:
        _check_strict(body)


def _check_fields(body: Json, dialect: Dialect) -> None:
    if odd := dialect.refused & body.keys():
        raise RefusalError(400, f"'{min(odd)}' is currently not supported", param=min(odd), code="wrong_api_format")
    if dialect.fields is not None and (odd := body.keys() - dialect.fields):
        raise RefusalError(422, "Extra inputs are not permitted", param=min(odd), code="extra_forbidden")


def _check_choice(body: Json, dialect: Dialect) -> None:
    choice = body.get("tool_choice")
    form = "name" if is_object(choice) else choice
    if form is not None and form not in dialect.choices:
        said = f"tool_choice must be one of {', '.join(sorted(dialect.choices))}"
        raise RefusalError(dialect.odd_choice, said, param="tool_choice")


def _check_format(body: Json, model: str, dialect: Dialect) -> None:
    wanted = body.get("response_format")
    kind = wanted.get("type") if is_object(wanted) else None
    if kind in (None, "text"):
        return
    if kind not in dialect.formats or (
        kind == "json_schema" and not any(fnmatchcase(model.lower(), name) for name in dialect.schema_models)
    ):
        raise invalid(f"This model does not support response format `{kind}`.", "response_format")
    if dialect.tools_or_format and body.get("tools"):
        raise invalid(f"{kind} cannot be combined with tool/function calling", "response_format")
    if not dialect.streams_formats and body.get("stream") is True:
        raise invalid(f"response_format {kind} does not support streaming", "response_format")


def _check_strict(body: Json) -> None:
    tools = body.get("tools")
    for tool in tools if is_list(tools) else []:
        function = tool.get("function") if is_object(tool) else None
        if is_object(function) and function.get("strict") is True:
            _refuse_schema(function.get("parameters"), f"function '{function.get('name')}'", "tools[0].function.parameters")
    wanted = body.get("response_format")
    held = wanted.get("json_schema") if is_object(wanted) else None
    if is_object(held) and held.get("strict") is True:
        _refuse_schema(held.get("schema"), f"response_format '{held.get('name')}'", "response_format")


def _refuse_schema(schema: object, where: str, param: str) -> None:
    fault = strict_fault(schema) if is_object(schema) else "a schema is needed."
    if fault:
        raise RefusalError(400, f"Invalid schema for {where}: {fault}", param=param, code="invalid_function_parameters")
