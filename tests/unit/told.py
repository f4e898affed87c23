"""What the code can tell a caller, read from its source: names of headers and metrics, and every value of `x-lesson-reason`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml

from proxy.lessons.forms.chat import NEUTRAL
from proxy.lessons.forms.responses import _OBSTACLES
from proxy.lessons.scanner import Fault
from proxy.observe.metrics import Metrics

PROXY = Path(__file__).parents[2] / "proxy"
_WORD = re.compile(r"[a-z][a-z0-9_]*")
_HEADER = re.compile(r"(?:header\.)?(x-[a-z-]*[a-z])")
_RESENT, _BACK, _UNMERGEABLE = "resent:", "taken_back:", "unmergeable:"

_BY_CALL: Mapping[str, tuple[int, str]] = {
    "Unbatchable": (0, ""),
    "Alone": (0, ""),
    "Away": (0, ""),
    "Rest": (0, ""),
    "alone": (1, ""),
    "_alone": (3, ""),
    "_nobody_goes": (1, ""),
    "_Level": (3, ""),
    "Asked": (5, ""),
    "Failed": (1, _RESENT),
    "Invalid": (1, _RESENT),
    "Unfit": (0, _RESENT),
    "finish": (0, _RESENT),
    "withdraw": (1, _BACK),
    "_take_back": (1, _BACK),
    "_lose": (1, _BACK),
    "_go_by_oneself": (1, _BACK),
    "UnfitError": (0, _UNMERGEABLE),
    "copied": (1, _UNMERGEABLE),
}
"""Which argument of a function or class is a reason, and what stands before it in the header."""
_BY_RETURN: Mapping[str, tuple[str, str]] = {
    # file: the functions (a pattern) whose returned texts are reasons, and what stands before them
    "lessons/recognise.py": ("_unread|_read_prompt", ""),
    "lessons/structure.py": ("_walk|leaves_the_schema", ""),
    "lessons/forms/chat.py": ("read_chat|_.*obstacle|_read_.*|_text_of", ""),
    "lessons/forms/responses.py": ("read_responses|_field_obstacle|_read_input|_message|_content", ""),
    "windows/entrants.py": ("refusal", ""),
    "windows/book.py": ("_refusal|_none_opened", ""),
    "windows/replica/machine.py": ("_refusal", ""),
    "batcher.py": ("_kept_alone", ""),
    "lessons/checks.py": ("_fault", _RESENT),
    "dispatch/course.py": ("_own_failure", _RESENT),
}
_BY_TARGET: Mapping[str, tuple[str, str]] = {
    # file: the variables and attributes that hold a reason, and what stands before it
    "lessons/recognise.py": ("obstacle", ""),
    "lessons/forms/chat.py": ("obstacle", ""),
    "lessons/forms/responses.py": ("obstacle|reason", ""),
    "lessons/split.py": ("reason", _RESENT),
    "lessons/checks.py": ("absent", _RESENT),
    "dispatch/dispatcher.py": ("failure", _RESENT),
}
_NOT_HEADERS = frozenset({"x-gzip"})
_NOT_A_CALLERS = frozenset({"resent:no_lesson"})
"""What a batch without a lesson is counted as; each of its callers is told what its own entry lacked."""


def headers() -> set[str]:
    """Names that begin with `x-`, of requests and answers; the simulated provider's own are not the proxy's."""
    files = (path for path in PROXY.rglob("*.py") if not path.is_relative_to(PROXY / "simulated"))
    texts = (_text(node) for path in files for node in ast.walk(_parsed(path)))
    return {found[1] for text in texts if (found := _HEADER.fullmatch(text))} - _NOT_HEADERS


def metrics() -> set[str]:
    """Names as Prometheus knows them, less the endings of counters and histograms."""
    gauges = re.findall(r'\.gauge\(\s*"([a-z_]+)"', (PROXY / "app" / "running.py").read_text(encoding="utf-8"))
    return {metric.name for metric in Metrics().registry.collect()} | {f"lesson_proxy_{name}" for name in gauges}


def reasons() -> set[str]:
    """Every value of `x-lesson-reason` but operators' own and the codes of errors."""
    found = {reason for table in (NEUTRAL, _OBSTACLES) for reason, _ in table.values()}
    found |= {f"{_RESENT}{fault}" for fault in get_args(Fault) if fault}
    rules: Any = yaml.safe_load((PROXY / "rules.yaml").read_text(encoding="utf-8"))
    found |= {rule["reason"] for rule in rules if "reason" in rule}
    for path in PROXY.rglob("*.py"):
        name = path.relative_to(PROXY).as_posix()
        if not name.startswith(("simulated/", "cli/")):
            found |= _Reader(name, _parsed(path)).found
    return found - _NOT_A_CALLERS


class _Reader:
    """Collects the reasons of one file."""

    def __init__(self, file: str, tree: ast.Module) -> None:
        self.found: set[str] = set()
        assigned = (node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name))
        self._constants = {ast.unparse(node.targets[0]): text for node in assigned if (text := _text(node.value))}
        returning, before_returned = _BY_RETURN.get(file, ("", ""))
        holding, before_held = _BY_TARGET.get(file, ("", ""))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                self._called(node)
            elif isinstance(node, ast.FunctionDef) and re.fullmatch(returning, node.name):
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Return) and inner.value:
                        self._take(inner.value, before_returned)
            elif isinstance(node, ast.Assign) and re.search(rf"\b(?:{holding})\b", ast.unparse(node.targets[0])) and holding:
                self._take(node.value, before_held)

    def _called(self, call: ast.Call) -> None:
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
        place, before = _BY_CALL.get(name, (None, ""))
        if place is not None and len(call.args) > place:
            self._take(call.args[place], before)
        for keyword in call.keywords:
            if keyword.arg == "obstacle":
                self._take(keyword.value, "")

    def _take(self, expression: ast.expr, before: str) -> None:
        for text in self._texts(expression):
            if _WORD.fullmatch(text.removeprefix(_BACK)):
                self.found.add(text if text.startswith(_BACK) else before + text)

    def _texts(self, node: ast.expr) -> Iterator[str]:
        """Yield the texts that an expression may come to."""
        match node:
            case ast.Constant(value=str(text)):
                yield text
            case ast.Name(id=name) if name in self._constants:
                yield self._constants[name]
            case ast.IfExp():
                yield from self._all(node.body, node.orelse)
            case ast.BoolOp():
                yield from self._all(*node.values)
            case ast.Tuple(elts=[*_, last]):
                yield from self._texts(last)
            case ast.BinOp(left=ast.Name(id="BACK")):
                yield from (_BACK + text for text in self._texts(node.right))
            case ast.Call(func=ast.Attribute(attr="get"), args=[_, ast.Tuple(elts=[reason, *_])]):
                yield from self._texts(reason)
            case _:
                pass

    def _all(self, *nodes: ast.expr) -> Iterator[str]:
        for node in nodes:
            yield from self._texts(node)


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _text(node: ast.AST) -> str:
    value = node.value if isinstance(node, ast.Constant) else None
    return value.decode("latin-1") if isinstance(value, bytes) else value if isinstance(value, str) else ""
