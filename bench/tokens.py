"""Input tokens of a batch beside the same lessons alone, by a real tokenizer on the bodies as they go on the wire.

Counted: the texts of the messages and the compact JSON of each tool's function. What a provider's chat template adds is
not counted, on either side.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.lesson_prompt import CONTEXT, FUNCTION, REQUESTS, SYSTEM
from proxy.lessons.merge import Unmergeable, merge
from proxy.model import BatchKey, CallId, Capability, Json, Lesson
from proxy.policy import MergePolicy, WindowPolicy

SIZES = (2, 3, 5)
ENCODING = "o200k_base"
SEEDS = tuple(f"batch-{number}" for number in range(20))
LEAST_SAVED = {"identical": {2: 0.47, 3: 0.64, 5: 0.78}, "different": {2: 0.88, 3: 0.92, 5: 0.95}}
"""Identical: share of all input. Different: share of what (n - 1) calls repeat, the shared messages and the tool."""

Count = Callable[[str], int]


def tokenizer() -> Count:
    """Return a token counter that needs no network: litellm ships the vocabulary."""
    found = importlib.util.find_spec("litellm")
    assert found
    assert found.submodule_search_locations
    folder = Path(found.submodule_search_locations[0]) / "litellm_core_utils" / "tokenizers"
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(folder))
    import tiktoken  # noqa: PLC0415 - it reads the variable when it loads a vocabulary

    encoding = tiktoken.get_encoding(ENCODING)
    return lambda text: len(encoding.encode(text, disallowed_special=()))


def counted(body: Json, count: Count) -> int:
    """Return the input tokens of a chat body as this file counts them."""
    texts = [message["content"] for message in body["messages"]]
    functions = [_compact(tool["function"]) for tool in body["tools"]]
    return sum(map(count, texts + functions))


def chat_body(request: str) -> Json:
    """Return the body with which the app asks for one lesson."""
    texts = (("system", SYSTEM), ("user", CONTEXT), ("user", request))
    return {
        "model": "bench-model",
        "messages": [{"role": role, "content": text} for role, text in texts],
        "tools": [{"type": "function", "function": FUNCTION}],
        "tool_choice": {"type": "function", "function": {"name": "create_lesson"}},
    }


def measure() -> list[dict[str, Any]]:
    """Return a row a kind and size, with the least `saved` share that is promised as `bound`."""
    rows: list[dict[str, Any]] = []
    for kind, bounds in LEAST_SAVED.items():
        for size, bound in bounds.items():
            requests = [REQUESTS[0]] * size if kind == "identical" else REQUESTS[:size]
            rows.append(saved(kind, requests) | {"bound": bound})
    return rows


def saved(kind: str, requests: Sequence[str]) -> dict[str, Any]:
    """Return `alone` and `merged` tokens of such requests and the `saved` share, the worst over the seeds."""
    count = tokenizer()
    bodies = [chat_body(request) for request in requests]
    alone = sum(counted(body, count) for body in bodies)
    merged = max(counted(_merged(bodies, seed), count) for seed in SEEDS)
    shared = count(SYSTEM) + count(CONTEXT) + count(_compact(FUNCTION))
    repeated = alone if kind == "identical" else (len(bodies) - 1) * shared
    return {"kind": kind, "size": len(bodies), "alone": alone, "merged": merged, "saved": (alone - merged) / repeated}


def main() -> None:
    """Print the table with its conditions."""
    count = tokenizer()
    parts = [count(SYSTEM), count(_compact(FUNCTION)), count(CONTEXT), *{count(request) for request in REQUESTS}]
    print(f"Input tokens, {ENCODING}, one prompt of {' + '.join(map(str, parts))} (system + tool + context + request),")
    print(f"message texts and the compact JSON of the tool's function; carrier: tool; the worst of {len(SEEDS)} draws of keys.")
    print("identical: saved of all input; different requests: saved of what the further calls repeat.")
    print(f"{'calls':<11}{'n':>2}{'alone':>8}{'merged':>8}{'saved':>8}{'bound':>8}")
    for row in measure():
        saved, bound = f"{row['saved']:.1%}", f"{row['bound']:.0%}"
        print(f"{row['kind']:<11}{row['size']:>2}{row['alone']:>8}{row['merged']:>8}{saved:>8}{bound:>8}")


def _merged(bodies: Sequence[Json], seed: str) -> Json:
    merged = merge([_lesson(number, body) for number, body in enumerate(bodies)], Capability(), seed=seed)
    assert not isinstance(merged, Unmergeable), merged.reason
    return merged.body


def _lesson(number: int, body: Json) -> Lesson:
    return Lesson(
        id=CallId(f"call-{number}"),
        body=body,
        model="bench-model",
        shape="tool",
        rule="create_lesson tool",
        mode="on",
        subject="algebra 1",
        topic="linear equations",
        user="learner-1",
        scope="user",
        key=BatchKey("key"),
        identity_digest="",
        schema=FUNCTION["parameters"],
        schema_name="create_lesson",
        force="name",
        token_limit=None,
        token_limit_field=None,
        stream=False,
        include_usage=False,
        window=WindowPolicy(),
        merge=MergePolicy(),
        checks={},
    )


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


if __name__ == "__main__":
    main()
