"""The pages of docs/ and the README say of links, snippets, headers, reasons and metrics what the repository holds."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy import errors
from proxy.settings import Settings, parse
from proxy.settings.document import parse_yaml
from tests.unit import told

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
HEADERS = (ROOT / "docs" / "headers.md").read_text(encoding="utf-8")
MODELS: dict[str, Any] = {"model_list": [{"model_name": "own", "litellm_params": {"model": "openai/gpt-4o", "api_key": "sk-of-the-owner"}}]}
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_COUNTED = re.compile(r"_(total|bucket|count|sum)$")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def prose(page: Path) -> str:
    """Return a page's text without its snippets."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Return what its headings are called in links, as GitHub makes it."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def snippets(language: str) -> list[Any]:
    found = [(page, text) for page in PAGES for name, text in _FENCE.findall(page.read_text(encoding="utf-8")) if name == language]
    return [pytest.param(text, id=f"{page.relative_to(ROOT)}-{index}") for index, (page, text) in enumerate(found)]


def names(cells: Iterator[str]) -> list[str]:
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def first_cells(text: str) -> Iterator[str]:
    return (line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))


@each_page
def test_every_relative_link_leads_to_a_file_and_a_heading_of_it(page: Path) -> None:
    for link in _LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    open_pages = [ROOT / "README.md"]
    while open_pages:
        page = open_pages.pop()
        if page not in reached and page.suffix == ".md":
            reached.add(page)
            open_pages += [(page.parent / link.partition("#")[0]).resolve() for link in _LINK.findall(prose(page)) if ":" not in link]
    assert set(PAGES) <= reached


@pytest.mark.parametrize("snippet", snippets("python"))
def test_every_python_snippet_compiles(snippet: str) -> None:
    compile(snippet, "snippet", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("snippet", snippets("yaml"))
def test_every_snippet_of_settings_is_sound(snippet: str) -> None:
    """YAML of other programs (Compose, Kubernetes) has none of the settings' names at its top, and need only be YAML."""
    documents: list[Any] = list(yaml.safe_load_all(snippet))
    if any(set(document) & set(Settings.model_fields) for document in documents):
        named = re.findall(r"os\.environ/(\w+)", snippet)
        env = {name: "redis://127.0.0.1" if name.endswith("_URL") else "a-secret-of-the-owner's-own" for name in named}
        assert parse(MODELS | parse_yaml(snippet), env=env).model_list


def test_the_page_of_headers_names_those_of_the_code_and_no_others() -> None:
    """Of the form `x-…`; a family is written with its dots (`x-ratelimit-…`)."""
    assert set(re.findall(r"\bx-[a-z-]*[a-z]\b(?!-)", HEADERS)) == told.headers()


def test_the_page_of_headers_explains_every_reason_of_the_code_and_no_others() -> None:
    tables = HEADERS.partition("## Values of x-lesson-reason")[2].partition("### With an error")[0]
    explained = names(first_cells(tables))
    assert sorted(explained) == sorted(set(explained))
    assert set(explained) == told.reasons()


def test_codes_of_errors_in_the_page_of_headers_are_the_codes_of_errors() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.ProxyError)]
    codes = {kind.default_code for kind in classes} | {"resend_budget"}
    explained = names(first_cells(HEADERS.partition("### With an error")[2]))
    assert explained
    assert set(explained) <= codes


@each_page
def test_every_metric_on_a_page_is_one_of_the_code(page: Path) -> None:
    for name in re.findall(r"\blesson_proxy_[a-z_]+\b", page.read_text(encoding="utf-8")):
        assert {name, _COUNTED.sub("", name)} & told.metrics(), name
