"""Request bodies: every malformed one is a 400 or 413 in words, never a 422, never a 500, and never more memory than the bound."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import tracemalloc
import zlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import BadRequestError, BodyTooLargeError
from proxy.model import Call, Reply
from proxy.routes.body import parse_object
from proxy.routes.paths import normalise
from tests.timing import cpu_s
from tests.unit.asgi import CHAT, HELLO, OK, Exchange, House, ask, scope

MESSAGES = b'"messages": []'


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b"null", "invalid_json", None),
        (b"[]", "invalid_json", None),
        (b'"text"', "invalid_json", None),
        (b"\xff\xfe", "invalid_json", None),
        (b'{"model": "m", "x": NaN}', "invalid_json", None),
        (b'{"model": "m", "x": -Infinity}', "invalid_json", None),
        (b'{"model": "m", "x": 1e999}', "invalid_json", None),
        (b'{"model": "m", "x": ' + b"[" * 300 + b"]" * 300 + b"}", "invalid_json", None),
        (b'{"model": "m", "x": ' + b"[" * 30_000 + b"]" * 30_000 + b"}", "invalid_json", None),
        (b'{"model": "m"} trailing', "invalid_json", None),
        (b"{%s}" % MESSAGES, "missing_required_parameter", "model"),
        (b'{"model": null, %s}' % MESSAGES, "missing_required_parameter", "model"),
        (b'{"model": 4, %s}' % MESSAGES, "invalid_type", "model"),
        (b'{"model": "", %s}' % MESSAGES, "invalid_type", "model"),
        (b'{"model": "a\\nb", %s}' % MESSAGES, "invalid_type", "model"),
        (b'{"model": {"a": 1}, %s}' % MESSAGES, "invalid_type", "model"),
        (b'{"model": "m"}', "missing_required_parameter", "messages"),
        (b'{"model": "m", "messages": null}', "missing_required_parameter", "messages"),
        (b'{"model": "m", "messages": "hi"}', "invalid_type", "messages"),
        (b'{"model": "m", "messages": ["hi"]}', "invalid_type", "messages"),
        (b'{"model": "m", "stream": "true", %s}' % MESSAGES, "invalid_type", "stream"),
        (b'{"model": "m", "stream": 1, %s}' % MESSAGES, "invalid_type", "stream"),
    ],
)
async def test_a_malformed_body_is_a_400_that_says_what_is_wrong(body: bytes, code: str, param: str | None) -> None:
    house = House(max_body_bytes=100_000)
    answer = await ask(house.edge, body=body)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, code, param)
    assert answer.error["type"] == "invalid_request_error"
    assert house.calls == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "m", "messages": [], "x": 123456789012345678901234567890}',
        b'{"model": "m", "messages": [], "stream": null}',
        b'{"model": "first", "model": "m", "messages": []}',
        b'{"model": "m", "messages": [{"role": "user", "content": "\\ud83d"}]}',
        b'\xef\xbb\xbf{"model": "m", "messages": []}',
        b'{"model": "m", "messages": [], "x": ' + b"[" * 200 + b"]" * 200 + b"}",
        b'{"model": "m", "messages": [], "x": "' + b"[{" * 300 + b'"}',
    ],
)
async def test_what_a_provider_may_understand_goes_through_byte_for_byte(body: bytes) -> None:
    house = House(max_body_bytes=100_000)
    assert (await ask(house.edge, body=body)).status == 200
    call = house.calls[0]
    assert call.raw == body
    assert call.body["model"] == "m"
    # whatever judges or merges it can write it again
    orjson.dumps(call.body)


def test_half_an_emoji_reads_as_a_replacement_and_a_whole_one_stays() -> None:
    assert parse_object(b'{"a": "x\\ud83dy \\ud83d\\ude00"}') == {"a": "x\ufffdy \U0001f600"}


async def test_a_body_over_the_bound_is_a_413_as_soon_as_its_announced_length_says_so() -> None:
    exchange = Exchange(parts=[b"x" * 10] * 500)
    await House(max_body_bytes=1000).edge(scope("POST", CHAT, [("content-length", "5000")]), exchange.receive, exchange.send)
    assert (exchange.status, exchange.error["code"], exchange.parts_read) == (413, "request_too_large", 0)


async def test_a_body_of_no_announced_length_is_refused_while_it_is_read() -> None:
    exchange = Exchange(parts=[b"x" * 100] * 500)
    await House(max_body_bytes=1000).edge(scope("POST", CHAT), exchange.receive, exchange.send)
    assert (exchange.status, exchange.error["code"]) == (413, "request_too_large")
    assert exchange.parts_read <= 12


@pytest.mark.parametrize("size", [1000, 1001])
async def test_the_bound_is_met_exactly(size: int) -> None:
    text = orjson.dumps(HELLO | {"pad": ""})
    body = text[:-2] + b"x" * (size - len(text)) + text[-2:]
    assert len(body) == size
    assert (await ask(House(max_body_bytes=1000).edge, body=body)).status == (200 if size == 1000 else 413)


async def test_a_body_in_parts_is_put_together() -> None:
    raw = orjson.dumps(HELLO)
    house, exchange = House(), Exchange(parts=[raw[:5], b"", raw[5:]])
    await house.edge(scope("POST", CHAT), exchange.receive, exchange.send)
    assert (exchange.status, house.calls[0].raw) == (200, raw)


async def test_all_long_bodies_together_have_a_bound_and_short_ones_go_on() -> None:
    """Whoever holds back the end of many long bodies would fill the memory."""
    house = House(max_body_bytes=1000)
    front = house.edge.front
    assert front is not None
    front.room.left = 1500
    holding = Exchange(parts=[b"{" + b" " * 899, b"", b""])
    waits = asyncio.Event()

    async def slow() -> dict[str, Any]:
        if holding.parts_read == 1:
            waits.set()
            await holding.gone.wait()
        return await holding.receive()

    first = asyncio.get_running_loop().create_task(house.edge(scope("POST", CHAT), slow, holding.send))
    await waits.wait()
    assert front.room.left == 600
    late = Exchange(parts=[b"{" + b" " * 699, b"}"])
    await house.edge(scope("POST", CHAT), late.receive, late.send)
    assert (late.status, late.error["code"], late.headers["retry-after"]) == (503, "bodies", "1")
    assert (await ask(house.edge)).status == 200

    holding.leave()
    await first
    assert front.room.left == 1500


async def test_an_unpacked_body_takes_room_too_until_its_call_is_over() -> None:
    held: list[int] = []
    house = House()
    front = house.edge.front
    assert front is not None

    async def answer(_call: Call) -> Reply:
        held.append(before - front.room.left)
        return OK

    before, house.reply = front.room.left, answer
    raw = orjson.dumps(HELLO)
    answered = await ask(house.edge, body=gzip.compress(raw), headers=[("content-encoding", "gzip")])
    assert (answered.status, held, front.room.left) == (200, [len(raw)], before)


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("gzip", gzip.compress(orjson.dumps(HELLO), mtime=0)),
        ("x-gzip", gzip.compress(orjson.dumps(HELLO), mtime=0)),
        ("GZIP", gzip.compress(orjson.dumps(HELLO), mtime=0)),
        ("deflate", zlib.compress(orjson.dumps(HELLO))),
        ("identity", orjson.dumps(HELLO)),
    ],
    ids=["gzip", "x-gzip", "GZIP", "deflate", "identity"],
)
async def test_a_compressed_body_is_unpacked_and_said_to_be_plain(coding: str, packed: bytes) -> None:
    house = House()
    assert (await ask(house.edge, body=packed, headers=[("content-encoding", coding)])).status == 200
    assert house.calls[0].raw == orjson.dumps(HELLO)
    assert "content-encoding" not in house.calls[0].headers


@pytest.mark.parametrize(
    ("coding", "packed", "status", "code"),
    [
        ("br", b"x", 400, "unsupported_content_encoding"),
        ("gzip, gzip", b"x", 400, "unsupported_content_encoding"),
        ("gzip", b"no gzip at all", 400, "invalid_encoding"),
        ("gzip", gzip.compress(orjson.dumps(HELLO), mtime=0)[:-9], 400, "invalid_encoding"),
        ("gzip", gzip.compress(b"0" * 1_000_000, mtime=0), 413, "request_too_large"),
    ],
)
async def test_a_body_that_can_not_be_unpacked_within_the_bound_is_refused(coding: str, packed: bytes, status: int, code: str) -> None:
    answer = await ask(House(max_body_bytes=5000).edge, body=packed, headers=[("content-encoding", coding)])
    assert (answer.status, answer.error["code"]) == (status, code)


async def test_a_bomb_is_never_unpacked_whole() -> None:
    bomb = gzip.compress(b"0" * 50_000_000)
    tracemalloc.start()
    try:
        answer = await ask(House(max_body_bytes=100_000).edge, body=bomb, headers=[("content-encoding", "gzip")])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.status == 413
    assert peak < 5_000_000


async def test_an_unknown_model_is_a_404_that_clients_know() -> None:
    house = House()
    house.upstream.knows = lambda model: model == "m"
    answer = await ask(house.edge, body=HELLO | {"model": "x" * 150})
    assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", "model")
    assert "x" * 101 not in answer.error["message"]
    assert (await ask(house.edge, body=HELLO | {"model": "m" * 300})).error["code"] == "model_not_found"


@pytest.mark.parametrize("value", [b"[]", b"1", b"{}"])
def test_a_body_of_millions_of_values_is_refused_before_it_is_parsed(value: bytes) -> None:
    """Parsed, it would take thirty times its size and hold up everybody for seconds."""
    many = b'{"model": "m", "input": [%s]}' % b",".join([value] * 1_100_000)

    def refused() -> None:
        with pytest.raises(BodyTooLargeError):
            parse_object(many)

    assert cpu_s(refused) < 0.1


def test_a_long_body_of_few_values_is_none_of_these() -> None:
    assert parse_object(b'{"model": "m", "input": "%s"}' % (b"hello, world. " * 70_000))["model"] == "m"


def test_a_parse_error_quotes_nothing_of_the_body() -> None:
    for body in (b'{"prompt": "secret" secret}', b'["secret"', b'{"secret": "\xff"}'):
        with pytest.raises(BadRequestError) as caught:
            parse_object(body)
        assert "secret" not in caught.value.message


_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), _JSON, max_size=5))
def test_every_object_is_read_as_it_was_written(body: dict[str, Any]) -> None:
    assert parse_object(json.dumps(body).encode()) == body


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_an_object_or_an_error_of_ours(raw: bytes) -> None:
    with contextlib.suppress(BadRequestError):
        assert isinstance(parse_object(raw), dict)


@given(st.text(alphabet="/.%a1;\\?# ä", max_size=30))
def test_no_spelling_of_a_path_climbs(path: str) -> None:
    """A normalised path is normal: nothing in it is left to be read differently by the next one who reads it."""
    normal = normalise("/" + path)
    if normal is None:
        return
    assert normal.startswith("/")
    assert not {"", ".", ".."} & set(normal[1:].split("/")) or normal == "/"
    assert not set(normal) & set("%;\\?# ä")
    assert normalise(normal) == normal
