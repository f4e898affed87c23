"""Law: a model that does as the merged body's schema and words say gives every caller its own content back."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.lessons.merge import MergedBody, merge
from proxy.lessons.split import Split, Valid
from proxy.model import Capability, Json, Lesson, Piece
from tests.make import make_body, make_lesson, make_text_lesson

CAPABILITIES = [
    Capability(),
    Capability(entries="array"),
    Capability(entries="inline"),
    Capability(force="required", bounded_strings=True),
    Capability(force="none", loose_items=True),
    Capability(force="none", json_schema=False),
]
CONTENT = (st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(['{"lessons": {}}', '"}', "\\"])).filter(
    str.strip
)


def answer_of(merged: MergedBody, lessons: list[Lesson], contents: list[str]) -> str:
    """Write what was asked for, reading only the body: which text stands behind which key, and the form of the answer."""
    text = merged.body["messages"][-1]["content"]
    headers = [(match.start(), match[1]) for match in re.finditer(rf"\n\n({'|'.join(merged.keys)}):\n", text)]
    content_of = dict(zip([f"request {number}!" for number in range(len(lessons))], contents, strict=True))
    entries: Json = {}
    for (start, key), end in zip(headers, [start for start, _ in headers[1:]] + [len(text)], strict=True):
        found = next(content for request, content in content_of.items() if request in text[start:end])
        entries[key] = found if lessons[0].shape == "text" else {"title": "a title", "content": found}
    schema: Any = None
    match merged.body:
        case {"tools": [{"function": {"parameters": parameters}}]}:
            schema = parameters
        case {"response_format": {"json_schema": {"schema": declared}}}:
            schema = declared
        case _:
            pass
    if schema and schema["properties"]["lessons"]["type"] == "array":
        return json.dumps({"lessons": [{"key": key, "lesson": entry} for key, entry in entries.items()]})
    return json.dumps({"lessons": entries})


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("build", [make_lesson, make_text_lesson])
@settings(max_examples=15, deadline=None)
@given(contents=st.lists(CONTENT, min_size=2, max_size=5), cuts=st.lists(st.integers(0, 400), max_size=6), seed=st.text(max_size=3))
def test_every_caller_gets_its_own_content(build: Any, capability: Capability, contents: list[str], cuts: list[int], seed: str) -> None:
    lessons = [
        build(body=make_body(messages=[{"role": "user", "content": f"Topic: A\nrequest {number}!\nGo."}]), schema_name=None)
        for number in range(len(contents))
    ]
    merged = merge(lessons, capability, seed=seed)
    assert isinstance(merged, MergedBody)
    text = answer_of(merged, lessons, contents)
    split = Split(lessons, merged.keys)
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    kind = "arguments" if merged.carrier == "tool" else "content"
    parts = [
        part
        for number, (start, end) in enumerate(itertools.pairwise(places))
        for part in split.feed(Piece(kind, text[start:end], opens=number == 0))
    ]
    parts += split.finish(cut_off=False)
    got = {part.index: part.content for part in parts if isinstance(part, Valid)}
    assert len(parts) == len(got) == len(lessons), parts
    for index, content in enumerate(contents):
        assert got[index] == content if lessons[0].shape == "text" else json.loads(got[index])["content"] == content
