"""Another model name goes into a body in place; every other byte stays."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.upstream.splice import splice_model
from tests.timing import cpu_s

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=8) | st.sampled_from(["model", '"model"', '\\"model\\":', "{", "]"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", "a", '"model":']) | st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=6), JSON, max_size=5), st.text(max_size=9), st.text(max_size=9), st.integers(0, 5), st.booleans())
def test_only_the_models_value_changes(body: dict[str, Any], old: str, new: str, place: int, ascii_only: bool) -> None:  # noqa: FBT001
    """Whatever the other fields hold, the result is the body with another top-level model, byte for byte else."""
    items = [(k, v) for k, v in body.items() if k != "model"]
    items.insert(min(place, len(items)), ("model", old))
    parts = [(json.dumps(k, ensure_ascii=ascii_only) + " : " + json.dumps(v, ensure_ascii=ascii_only, indent=1)).encode() for k, v in items]
    raw = b" {" + b" ,\n".join(parts) + b"}\n"
    spliced = splice_model(raw, new)
    assert spliced is not None
    assert json.loads(spliced) == dict(items) | {"model": new}
    at = parts.index(next(p for p, (k, _) in zip(parts, items, strict=True) if k == "model"))
    parts[at] = (json.dumps("model") + " : ").encode() + orjson.dumps(new)
    assert spliced == b" {" + b" ,\n".join(parts) + b"}\n"


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        (b'{"model":"a","model":"b"}', b'{"model":"N","model":"N"}'),
        (b'{"m\\u006fdel":"a"}', b'{"m\\u006fdel":"N"}'),
        (b'{"x":{"model":"a"},"m\\u006Fdel":"b"}', b'{"x":{"model":"a"},"m\\u006Fdel":"N"}'),
        (b'{"x":["model"],"model" : "a\\"}"}', b'{"x":["model"],"model" : "N"}'),
        (b'{"a\\"model":"x","model":"b"}', b'{"a\\"model":"x","model":"N"}'),
        (b'{"x":"model","model":""}', b'{"x":"model","model":"N"}'),
    ],
)
def test_odd_bodies(raw: bytes, wanted: bytes) -> None:
    """Doubled keys are all replaced, escaped ones found, nested ones and values left alone."""
    assert splice_model(raw, "N") == wanted


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b'["model"]',
        b'{"a":1}',
        b'{"model":5}',
        b'{"a":{"model":"x"}}',
        b'{"a\\"model":"x"}',
        b'{"x":"model"}',
        b'{"model":"x',
        b'"',
    ],
)
def test_what_cannot_be_spliced_is_said(raw: bytes) -> None:
    """No top-level model string: None, never a wrong body."""
    assert splice_model(raw, "N") is None


@pytest.mark.parametrize("filler", [b'{"model":"x"},', b'"\\\\\\"model",', b'"model","{",', b"[],", b'"",[],', b'"' + b"a" * 500 + b'",'])
def test_a_hostile_megabyte_does_not_hold_up_the_loop(filler: bytes) -> None:
    """The model's name is found, or given up, within some milliseconds (50 allowed, for busy machines)."""
    raw = b'{"a":[' + filler * (1_000_000 // len(filler)) + b'0],"model":"old"}'
    assert splice_model(raw, "N") in (None, raw[:-5] + b'N"}')
    assert cpu_s(lambda: splice_model(raw, "N")) < 0.1


def test_a_large_body_of_long_texts_is_spliced() -> None:
    """Giving up is for hostile bodies: a megabyte of messages is none."""
    messages = [{"role": "user", "content": 'a "model" said: {} ' * 50, "model": "x"}] * 1000
    raw = json.dumps({"messages": messages, "model": "old"}).encode()
    assert splice_model(raw, "N") == raw[:-5] + b'N"}'
