"""What litellm's chunks are read as: counts, names and tool calls, however odd upstream told them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from proxy.model import LARGEST_COUNT, Piece, Usage
from proxy.upstream.pieces import PieceStream, count, read_usage, told_model, whole


def delta(arguments: str, index: Any = 0, called: str | None = None, name: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(index=index, id=called, function=SimpleNamespace(name=name, arguments=arguments))


async def read(*deltas: SimpleNamespace) -> list[Piece]:
    class Source:
        def __init__(self) -> None:
            self.chunks: list[Any] = []
            self._left = [
                SimpleNamespace(choices=[SimpleNamespace(delta=SimpleNamespace(tool_calls=[one]), finish_reason=None)]) for one in deltas
            ]

        async def __anext__(self) -> Any:
            if not self._left:
                raise StopAsyncIteration
            return self._left.pop(0)

    return [piece async for piece in PieceStream(Source(), lambda error: error)]


@pytest.mark.parametrize("value", [-1, True, None, "7", 10**30, float("nan"), float("inf"), 1e300, LARGEST_COUNT + 1])
def test_what_is_no_count_counts_nothing(value: Any) -> None:
    """A count that no client's JSON can hold would make an answer that nobody can write."""
    assert count(value) == 0
    assert count(7.0) == 7


def test_a_part_is_never_more_than_its_whole() -> None:
    told = SimpleNamespace(
        prompt_tokens=10,
        completion_tokens=5,
        completion_tokens_details=SimpleNamespace(reasoning_tokens=99),
        prompt_tokens_details=SimpleNamespace(cached_tokens=99),
    )
    assert read_usage(told) == Usage(10, 5, 5, 10)


@pytest.mark.parametrize("name", ["half \ud83d", "line\nbreak", "", "x" * 300, None, 7, ["m"]])
def test_a_models_name_that_no_answer_can_carry_is_none(name: Any) -> None:
    assert told_model(SimpleNamespace(_hidden_params={"provider_response_model": name})) is None
    response = SimpleNamespace(choices=[SimpleNamespace(message=None, finish_reason="stop")], model=name, usage=None)
    assert [piece.model for piece in whole(response)] == [None]


async def test_a_server_that_names_every_delta_anew_writes_one_call() -> None:
    """vLLM's and OCI's habit: an id of its own for each delta; only the first has the function's name."""
    told = await read(delta('{"a":', called="t1", name="f"), delta("1", called="t2"), delta("}", called="t3"))
    assert [(piece.call, piece.opens) for piece in told] == [(0, True), (0, False), (0, False)]


async def test_calls_that_are_written_by_turns_are_told_apart() -> None:
    told = await read(delta("{", 0, "t1", "f"), delta("[", 1, "t2", "f"), delta("}", 0), delta("]", 1), delta("0", 10**9, "t3", "f"))
    assert [(piece.text, piece.opens) for piece in told] == [("{", True), ("[", True), ("}", False), ("]", False), ("0", True)]
    assert [piece.call for piece in told[:4]] == [0, 1, 0, 1]
    assert told[4].call < 100, "an index is upstream's word and bounds nothing"
