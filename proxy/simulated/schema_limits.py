"""What providers' documents forbid in schemas: OpenAI's strict mode, Anthropic's output schemas, Gemini's subset; knows no requests."""

from __future__ import annotations

from collections.abc import Iterator

from proxy.simulated.schema import Json, is_list, is_object, resolve, type_of

_UNDER = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_MAPS = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")

_NOT_STRICT = frozenset(
    {
        "allOf", "contains", "dependentRequired", "dependentSchemas", "else", "if", "maxContains", "maxLength", "maxProperties",
        "minContains", "minLength", "minProperties", "not", "oneOf", "patternProperties", "propertyNames", "then", "unevaluatedItems",
        "unevaluatedProperties", "uniqueItems",
    }
)  # fmt: skip
_NOT_IN_OUTPUT = _NOT_STRICT | {"maximum", "minimum", "exclusiveMaximum", "exclusiveMinimum", "multipleOf", "maxItems"}
_GEMINIS = frozenset(
    {
        "anyOf", "default", "description", "enum", "example", "format", "items", "maxItems", "maxLength", "maxProperties", "maximum",
        "minItems", "minLength", "minProperties", "minimum", "nullable", "pattern", "properties", "propertyOrdering", "required", "title",
        "type",
    }
)  # fmt: skip
_MOST_LEVELS, _MOST_PROPERTIES = 10, 5_000


def _parts(schema: Json) -> Iterator[object]:
    for name in _UNDER:
        yield schema.get(name)
    for name in _LISTS:
        listed = schema.get(name)
        yield from listed if is_list(listed) else ()
    for name in _MAPS:
        mapped = schema.get(name)
        yield from mapped.values() if is_object(mapped) else ()


def _schemas(schema: object) -> Iterator[Json]:
    if is_object(schema):
        yield schema
        for part in _parts(schema):
            yield from _schemas(part)


def strict_fault(schema: Json) -> str | None:
    """Say what OpenAI's strict mode refuses in a schema; None: nothing."""
    properties = 0
    for part in _schemas(schema):
        if odd := _NOT_STRICT & part.keys():
            return f"'{min(odd)}' is not permitted."
        if "$ref" in part and len(part) > 1:
            return f"$ref cannot have keywords {sorted(part.keys() - {'$ref'})}."
        if fault := _open_or_optional(part):
            return fault
        properties += len(part.get("properties") or {})
    if properties > _MOST_PROPERTIES:
        return f"a schema may have at most {_MOST_PROPERTIES} properties."
    levels = _levels(schema, schema, ())
    return f"{levels} levels of nesting exceeds limit of {_MOST_LEVELS}." if levels > _MOST_LEVELS else None


def _open_or_optional(part: Json) -> str | None:
    named: Json = part.get("properties") or {}
    if part.get("type") != "object" and not named:
        return None
    if part.get("additionalProperties") is not False:
        return "'additionalProperties' is required to be supplied and to be false."
    if set(part.get("required") or ()) != set(named):
        return "'required' is required to be supplied and to be an array including every key in properties."
    return None


def _levels(schema: object, root: Json, followed: tuple[str, ...]) -> int:
    if not is_object(schema) or len(followed) != len(set(followed)):
        return 0
    plain, references = resolve(schema, root)
    inner = [_levels(part, root, (*followed, *references)) for part in _parts({**plain, "$defs": None, "definitions": None})]
    return max(inner, default=0) + (type_of(plain) in {"object", "array"})


def output_fault(schema: Json) -> str | None:
    """Say what Anthropic's structured outputs refuse in a schema; None: nothing."""
    for part in _schemas(schema):
        if odd := _NOT_IN_OUTPUT & part.keys():
            return f"property '{min(odd)}' is not supported"
        if part.get("type") == "object" and part.get("additionalProperties") is not False:
            return "for 'object' type, 'additionalProperties' must be explicitly set to false"
    return None


def subset_fault(schema: Json) -> str | None:
    """Say what Gemini's subset of OpenAPI refuses in a tool's parameters; None: nothing."""
    for part in _schemas(schema):
        if odd := part.keys() - _GEMINIS:
            return f'Invalid JSON payload received. Unknown name "{min(odd)}": Cannot find field.'
        if part.get("type") == "object" and not part.get("properties"):
            return "should be non-empty for OBJECT type"
    return None


def unbounded(schema: Json) -> bool:
    """Tell whether a string may go on for ever."""
    return any(part.get("type") == "string" and not {"maxLength", "enum", "const"} & part.keys() for part in _schemas(schema))
