"""Vectors for texts: made up, of length 1, and the same for the same text; close vectors mean nothing."""

from __future__ import annotations

import base64
import math
import random
import struct
from typing import Any

from proxy.simulated.refusals import invalid
from proxy.simulated.schema import Json, is_list
from proxy.simulated.tokens import Tokenizer

_USUAL_DIMENSIONS = 256
_MOST_DIMENSIONS = 4_096
_MOST_INPUTS = 2_048


def embeddings(body: Json, model: str, tokens: Tokenizer) -> Json:
    """Return the answer to an embeddings request; raises RefusalError for what OpenAI would refuse."""
    inputs = _inputs(body.get("input"))
    dimensions = body.get("dimensions", _USUAL_DIMENSIONS)
    if isinstance(dimensions, bool) or not isinstance(dimensions, int) or not 0 < dimensions <= _MOST_DIMENSIONS:
        raise invalid(f"Invalid 'dimensions': expected an integer of 1 to {_MOST_DIMENSIONS}.", "dimensions")
    packed = body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": i, "embedding": _packed(vector) if packed else vector}
        for i, vector in enumerate(_vector(text, dimensions) for text in inputs)
    ]
    count = sum(tokens.count(text) for text in inputs)
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": count, "total_tokens": count}}


def _inputs(value: Any) -> list[str]:
    """Return the texts; a list of token numbers stands for one text."""
    listed = value if is_list(value) and not all(isinstance(item, int) for item in value) else [value]
    if value in ("", None, []) or len(listed) > _MOST_INPUTS:
        raise invalid("Invalid 'input': expected a string, an array of strings, or arrays of tokens.", "input")
    return [item if isinstance(item, str) else repr(item) for item in listed]


def _vector(text: str, dimensions: int) -> list[float]:
    chance = random.Random(text)  # noqa: S311 - vectors are made up, not secrets
    raw = [chance.gauss(0, 1) for _ in range(dimensions)]
    length = math.sqrt(sum(x * x for x in raw)) or 1.0
    return [x / length for x in raw]


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
