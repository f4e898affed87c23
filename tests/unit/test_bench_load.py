"""What the load client of the benches calls a call's latency."""

from __future__ import annotations

from bench.harness import Until, chunked_answer, instant_upstream, load, request_bytes

GAP_S = 0.1
EVENTS = [b"data: one\n\n", b"data: two\n\n", b"data: [DONE]\n\n"]


async def latencies(parts: list[bytes], until: Until) -> list[float]:
    async with instant_upstream(parts, gap_s=GAP_S) as upstream:
        port = int(upstream.rpartition(":")[2])
        _, found = await load(port, request_bytes(b"{}"), connections=2, calls=4, until=until)
    return found


async def test_a_call_lasts_until_its_end_unless_told_otherwise() -> None:
    """Three events and the end, each a gap after the one before."""
    found = await latencies(chunked_answer(EVENTS), "end")
    assert len(found) == 4
    assert min(found) > 3.5 * GAP_S


async def test_the_first_byte_is_the_bodys_and_leaves_out_what_comes_later() -> None:
    """Head and first event in one write: there at once."""
    head, first, *later = chunked_answer(EVENTS)
    found = await latencies([head + first, *later], "first byte")
    assert len(found) == 4
    assert min(found) < GAP_S


async def test_a_head_by_itself_is_no_first_byte() -> None:
    """The first event comes a gap after the head."""
    found = await latencies(chunked_answer(EVENTS), "first byte")
    assert 0.9 * GAP_S < min(found) < 2 * GAP_S
