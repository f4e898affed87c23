"""Reads a configuration file into plain values: YAML, then `os.environ/NAME`; it knows no setting by its name.

A value of the file may be a secret, so no mistake ever quotes one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, cast

import yaml

Location = tuple[str | int, ...]
"""The keys and indices that lead to a value."""

_REFERENCE: Final = "os.environ/"
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DEEPEST: Final = 64
_TOO_DEEP: Final = f"nested more than {_DEEPEST} levels deep"
_BOOL: Final = "tag:yaml.org,2002:bool"
_TIMESTAMP: Final = "tag:yaml.org,2002:timestamp"
_MERGE: Final = "tag:yaml.org,2002:merge"


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong (or dangerous), and where it stands in the file."""

    path: str
    """As `lessons.window.max_size` or `model_list[0].model_name`; empty: the file as a whole."""
    message: str

    def __str__(self) -> str:
        """Return both, as a terminal shows them."""
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(Exception):
    """The configuration can't be used; `mistakes` holds every one that was found."""

    def __init__(self, mistakes: tuple[Mistake, ...], source: str = "") -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = mistakes
        self.source = source
        """The file that was read."""


def dotted(location: Location) -> str:
    """Return the path as people write it: `model_list[0].model_name`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def read_yaml(file: Path) -> Any:
    """Return the file's values; raises ConfigError where it can't be read or isn't sound YAML."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError((Mistake("", "the file is not UTF-8 text"),), str(file)) from None
    except OSError as error:
        raise ConfigError((Mistake("", f"the file can't be read: {error.strerror}"),), str(file)) from None
    return parse_yaml(text, source=str(file))


def parse_yaml(text: str, *, source: str = "") -> Any:
    """Return the values of a YAML text; raises ConfigError for broken YAML, doubled keys and aliases that hold themselves."""
    try:
        loader = _Loader(text)
    except yaml.YAMLError:
        raise ConfigError((Mistake("", "not sound YAML: a character that it does not allow"),), source) from None
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        mistakes = _Structure().mistakes_in(root)
        if mistakes:
            raise ConfigError(tuple(mistakes), source)
        return loader.construct_document(root)  # pyright: ignore[reportUnknownMemberType]
    except yaml.MarkedYAMLError as error:
        # the error's own text quotes the line, which may hold a key
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError((Mistake("", f"{place}not sound YAML: {error.problem}"),), source) from None
    except RecursionError:
        raise ConfigError((Mistake("", _TOO_DEEP),), source) from None
    finally:
        loader.dispose()


def resolve(value: Any, env: Mapping[str, str], at: Location = ()) -> tuple[Any, list[Mistake]]:
    """Replace every `os.environ/NAME`; a variable that is missing or empty is a mistake and its reference stays as it is."""
    match value:
        case dict():
            return _resolve_all(cast("dict[Any, Any]", value), env, at)
        case list():
            items = [resolve(item, env, (*at, index)) for index, item in enumerate(cast("list[Any]", value))]
            return [item for item, _ in items], [mistake for _, found in items for mistake in found]
        case str() if value.startswith(_REFERENCE):
            return _resolve_one(value, env, at)
        case _:
            return value, []


def _resolve_all(values: dict[Any, Any], env: Mapping[str, str], at: Location) -> tuple[dict[str, Any], list[Mistake]]:
    resolved: dict[str, Any] = {}
    mistakes: list[Mistake] = []
    for key, value in values.items():
        if not isinstance(key, str):
            mistakes.append(Mistake(dotted((*at, str(key))), "a key must be a string: put it in quotes"))
            continue
        resolved[key], found = resolve(value, env, (*at, key))
        mistakes += found
    return resolved, mistakes


def _resolve_one(reference: str, env: Mapping[str, str], at: Location) -> tuple[str, list[Mistake]]:
    name = reference.removeprefix(_REFERENCE)
    if not _VARIABLE.fullmatch(name):
        return reference, [Mistake(dotted(at), "`os.environ/` must be followed by the name of an environment variable")]
    value = env.get(name, "")
    if not value:
        return reference, [Mistake(dotted(at), f"the environment variable {name} is not set, or is empty")]
    return value, []


class _Loader(yaml.SafeLoader):
    """YAML as version 1.2 reads it where 1.1 surprises: `on` is a word (as in `mode: on`), `2024-02-01` is text (an API version)."""

    yaml_implicit_resolvers: ClassVar = {  # pyright: ignore[reportIncompatibleVariableOverride] - PyYAML's own way to do this
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in {_BOOL, _TIMESTAMP}]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(  # pyright: ignore[reportUnknownMemberType]
    _BOOL, re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


class _Structure:
    """Looks through composed nodes for what would be lost or endless once they are plain values."""

    def __init__(self) -> None:
        self._above: list[yaml.Node] = []
        self._seen: set[int] = set()

    def mistakes_in(self, node: yaml.Node, at: Location = ()) -> list[Mistake]:
        if any(node is ancestor for ancestor in self._above):
            return [Mistake(dotted(at), "this alias stands inside its own anchor")]
        if id(node) in self._seen:
            return []
        if len(self._above) >= _DEEPEST:
            return [Mistake(dotted(at), _TOO_DEEP)]
        self._seen.add(id(node))
        self._above.append(node)
        found = [mistake for child, place in self._children(node, at) for mistake in self.mistakes_in(child, place)]
        self._above.pop()
        return found + _doubled_keys(node, at)

    def _children(self, node: yaml.Node, at: Location) -> list[tuple[yaml.Node, Location]]:
        match node:
            case yaml.MappingNode():
                return [(value, (*at, str(key.value))) for key, value in node.value]
            case yaml.SequenceNode():
                return [(item, (*at, index)) for index, item in enumerate(node.value)]
            case _:
                return []


def _doubled_keys(node: yaml.Node, at: Location) -> list[Mistake]:
    if not isinstance(node, yaml.MappingNode):
        return []
    seen: set[str] = set()
    mistakes: list[Mistake] = []
    for key, _ in node.value:
        if key.tag == _MERGE:
            continue
        if str(key.value) in seen:
            mistakes.append(Mistake(dotted((*at, str(key.value))), f"this key stands twice (again in line {key.start_mark.line + 1})"))
        seen.add(str(key.value))
    return mistakes
