"""Finds the shape of JSON that a prompt's text asks for, and returns it as a JSON schema; knows nothing of requests.

It reads an example (`{"title": "", "steps": [{"n": 1}]}`), a sketch (`{title: string, level: "easy"|"hard", steps: [...]}`) or a
JSON schema that stands in the text. A word in capitals (`{"a": LESSON}`) stands for an object, or for a string where the text says
so. What it can't read it passes over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from proxy.simulated.schema import Json, is_list, is_object

_MOST_CANDIDATES = 32
_LONGEST = 40_000
_DEEPEST = 24
_CUE = re.compile(
    r"shape|format|schema|example|respond|reply|return|output|answer|like|structure|keys|fields|form\b|object|json", re.IGNORECASE
)
_AGAINST = re.compile(r"context|profile|data|learner|progress|history", re.IGNORECASE)
_CUE_CHARS = 120
_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|-?\d+(?:\.\d+)?|[{}\[\],:|?]|\.\.\.|…|<[^<>\n]{0,80}>|[^\W\d][\w.-]*')
_PLACEHOLDER = re.compile(r"[A-Z][A-Z_]{2,}")
_IS_A_STRING = re.compile(r"\b([A-Z][A-Z_]{2,})\b(?: is|:| =) (?:a |one |the )?(?:string|text)\b")
_BETWEEN = frozenset({",", "...", "…"})
_TYPES = {
    "string": "string", "str": "string", "text": "string", "number": "number", "float": "number", "integer": "integer",
    "int": "integer", "boolean": "boolean", "bool": "boolean", "true": "boolean", "false": "boolean", "object": "object",
    "array": "array", "null": "null",
}  # fmt: skip


class _UnreadableError(Exception):
    """The text between the braces is no shape."""


def shapes_in(text: str) -> list[Json]:
    """Return the schemas of all shapes in `text`, the likeliest first."""
    found: list[tuple[int, int, Json]] = []
    strings = frozenset(_IS_A_STRING.findall(text))
    for start, end in braces_in(text):
        schema = _schema_of(text[start:end], strings)
        if schema is not None:
            before = text[max(0, start - _CUE_CHARS) : start].rsplit("}", 1)[-1]
            found.append((-_likelihood(before, schema), start, schema))
    return [schema for _, _, schema in sorted(found, key=lambda item: item[:2])]


def _likelihood(before: str, schema: Json) -> int:
    return 4 * ("$defs" in schema or "title" in schema) + 2 * bool(_CUE.search(before)) - bool(_AGAINST.search(before))


def braces_in(text: str) -> Iterator[tuple[int, int]]:
    """Yield the spans of the outermost balanced braces, in one pass."""
    depth = start = yielded = 0
    for match in re.finditer(r'"(?:[^"\\\n]|\\.)*"|[{}]', text):
        if match.group() == "{":
            start = match.start() if depth == 0 else start
            depth += 1
        elif match.group() == "}" and depth:
            depth -= 1
            if depth == 0 and match.end() - start <= _LONGEST:
                yield start, match.end()
                yielded += 1
                if yielded == _MOST_CANDIDATES:
                    return


def _schema_of(span: str, strings: frozenset[str]) -> Json | None:
    try:
        value = orjson.loads(span)
    except orjson.JSONDecodeError:
        sketch = _Sketch(_TOKEN.findall(span), strings)
    else:
        return value if _is_schema(value) else _of_example(value, 0)
    try:
        schema = sketch.value(0)
    except (_UnreadableError, IndexError):
        return None
    return schema if sketch.at == len(sketch.tokens) and "properties" in schema else None


def _is_schema(value: Json) -> bool:
    return isinstance(value.get("properties"), dict) and ("type" in value or "required" in value or "$defs" in value)


def _of_example(value: object, depth: int) -> Json:
    if is_object(value):
        return _object({name: _of_example(item, depth + 1) for name, item in value.items()}) if depth < _DEEPEST else {"type": "object"}
    if is_list(value):
        return _list([_of_example(item, depth + 1) for item in value] if depth < _DEEPEST else [])
    match value:
        case bool():
            return {"type": "boolean"}
        case int() | float():
            return {"type": "integer" if isinstance(value, int) else "number", "minimum": 0}
        case str():
            return _of_words([word.strip() for word in value.split("|")])
        case _:
            return {"type": ["string", "null"]}


def _list(items: list[Json]) -> Json:
    """Return the schema of a list like the first item, with as many at least as there are."""
    schema: Json = {"type": "array"} | ({"items": items[0]} if items else {})
    return schema | ({"minItems": len(items)} if len(items) > 1 else {})


def _object(properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)} if properties else {"type": "object"}


def _of_words(words: list[str]) -> Json:
    """Read what stands for a value: names of types, or the values to choose from, or words about a string."""
    types = [_TYPES[word.lower()] for word in words if word.lower() in _TYPES]
    if types and len(types) == len(words):
        return {"type": types[0] if len(types) == 1 else types}
    return {"enum": words} if len(words) > 1 and all(words) else {"type": "string"}


@dataclass(slots=True)
class _Sketch:
    """Reads the tokens of one sketch in order; raises IndexError or _UnreadableError for what is none."""

    tokens: list[str]
    strings: frozenset[str]
    """Placeholders that the text calls strings."""
    at: int = 0

    def value(self, depth: int) -> Json:
        """Read one value; returns its schema."""
        if depth > _DEEPEST:
            raise _UnreadableError
        match self.tokens[self.at]:
            case "{":
                return self._members(depth)
            case "[":
                return self._items(depth)
            case "}" | "]" | "," | ":" | "|" | "?":
                raise _UnreadableError
            case _:
                return self._words()

    def _words(self) -> Json:
        """Read everything up to the end of a plain value: `string`, `"a" | "b"`, `two or three sentences`, `LESSON`."""
        words, alternatives = [""], False
        while self.tokens[self.at] not in {",", "}", "]"}:
            if self.tokens[self.at] == "|":
                alternatives = True
                words.append("")
            else:
                words[-1] = f"{words[-1]} {self.tokens[self.at].strip(chr(34))}".strip()
            self.at += 1
        if alternatives:
            return _of_words(words)
        word = words[0]
        if _PLACEHOLDER.fullmatch(word):
            return {"type": "string" if word in self.strings else "object"}
        if re.fullmatch(r"-?\d+(\.\d+)?", word):
            return {"type": "integer" if word.lstrip("-").isdigit() else "number", "minimum": 0}
        return _of_words(word.split("|"))

    def _members(self, depth: int) -> Json:
        properties: Json = {}
        self.at += 1
        while self.tokens[self.at] != "}":
            if self.tokens[self.at] in _BETWEEN:
                self.at += 1
                continue
            name = self.tokens[self.at].strip('"')
            self.at += 1
            self.at += self.tokens[self.at] == "?"
            if self.tokens[self.at] == ":":
                self.at += 1
                properties[name] = self.value(depth + 1)
            elif self.tokens[self.at] in {",", "}"}:
                properties[name] = {"type": "string"}
            else:
                raise _UnreadableError
        self.at += 1
        return _object(properties)

    def _items(self, depth: int) -> Json:
        items: list[Json] = []
        self.at += 1
        while self.tokens[self.at] != "]":
            if self.tokens[self.at] in _BETWEEN:
                self.at += 1
            else:
                items.append(self.value(depth + 1))
        self.at += 1
        return _list(items)
