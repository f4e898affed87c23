"""The input tokens that merging saves, with a real tokenizer on the bodies as they go on the wire."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest

from bench.lesson_prompt import CONTEXT, FUNCTION, REQUESTS, SYSTEM
from bench.tokens import LEAST_SAVED, SIZES, measure, saved, tokenizer


def test_the_prompt_has_the_size_that_the_figures_are_told_for() -> None:
    count = tokenizer()
    assert [count(SYSTEM), count(json.dumps(FUNCTION, separators=(",", ":"))), count(CONTEXT)] == [500, 250, 200]
    assert {count(request) for request in REQUESTS} == {150}


@functools.cache
def rows() -> dict[tuple[str, int], dict[str, Any]]:
    return {(row["kind"], row["size"]): row for row in measure()}


@pytest.mark.parametrize(("kind", "size"), [(kind, size) for kind, bounds in LEAST_SAVED.items() for size in bounds])
def test_merging_saves_what_it_promises(kind: str, size: int) -> None:
    assert rows()[kind, size]["saved"] >= LEAST_SAVED[kind][size]


@pytest.mark.parametrize("size", SIZES)
def test_requests_without_a_line_in_common_save_it_too(size: int) -> None:
    requests = [request.split("\n", 3)[3] for request in REQUESTS[:size]]
    assert saved("different", requests)["saved"] >= LEAST_SAVED["different"][size]
