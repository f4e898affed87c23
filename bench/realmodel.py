"""A real model server: tokens, time, valid and resent lessons of batches beside the same lessons alone, by its own usage.

Optional: it needs a llama.cpp server on this machine whose address stands in LESSON_PROXY_REALMODEL, with its model's name
in LESSON_PROXY_REALMODEL_NAME. What a small model writes is often wrong; what is measured is whether it has the caller's form.
Turns follow each other until LESSON_PROXY_REALMODEL_SECONDS (720) are over: every line has its counts.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import aiohttp
import jsonschema_rs
import orjson
import uvloop

from bench.harness import conditions, proxy
from bench.lesson_prompt import CONTEXT, REQUESTS, SYSTEM

SIZES, TURNS = (2, 3, 5), 4
FORMS = {"reference": ("different", "identical"), "array": ("different",), "inline": ("different",)}
"""The forms of a batch's schema, and which requests each is measured with."""


def _text(most: int) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": most}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


SCHEMA = _object(
    {
        "title": _text(80),
        "content": _text(400),
        "difficulty": {"type": "string", "enum": ["beginner", "intermediate", "advanced"]},
        "questions": {"type": "array", "minItems": 2, "maxItems": 2, "items": _object({"question": _text(120), "answer": _text(120)})},
    }
)
FITS = jsonschema_rs.validator_for(SCHEMA, offline=True)


@dataclass(frozen=True)
class Answer:
    prompt_tokens: int
    completion_tokens: int
    valid: bool
    resent: str
    """Why, empty where it wasn't."""
    merged: bool
    seconds: float


def lesson_body(request: str, user: str, form: str) -> bytes:
    """Build one request in the form that the server can be forced to."""
    texts = (("system", SYSTEM), ("user", CONTEXT), ("user", request))
    function = {"name": "create_lesson", "description": "Create one lesson with comprehension questions.", "parameters": SCHEMA}
    return orjson.dumps(
        {
            "model": form,
            "user": user,
            "messages": [{"role": role, "content": text} for role, text in texts],
            "tools": [{"type": "function", "function": function}],
            "tool_choice": "required",
            "parallel_tool_calls": False,
            "temperature": 0.3,
            "max_tokens": 800,
        }
    )


async def ask(session: aiohttp.ClientSession, url: str, body: bytes, *, merge: bool) -> Answer:
    """Send one call."""
    started = time.perf_counter()
    headers = {"content-type": "application/json"} | ({} if merge else {"x-lesson-merge": "off"})
    async with session.post(url + "/v1/chat/completions", data=body, headers=headers) as response:
        answer: Any = orjson.loads(await response.read())
        assert response.status == 200, answer
        usage = answer["usage"]
        return Answer(
            usage["prompt_tokens"],
            usage["completion_tokens"],
            _valid(answer),
            response.headers.get("x-lesson-reason", "").partition("resent:")[2],
            response.headers.get("x-lesson-merged") == "true",
            time.perf_counter() - started,
        )


def _valid(answer: Any) -> bool:
    calls: list[Any] = answer["choices"][0]["message"].get("tool_calls") or []
    try:
        return len(calls) == 1 and FITS.is_valid(orjson.loads(calls[0]["function"]["arguments"]))
    except orjson.JSONDecodeError:
        return False


async def measure(url: str, seconds: float) -> list[str]:
    """Return a line a kind, form and size: each once before any comes again, so that a run cut short has them all."""
    alone: dict[str, list[Answer]] = defaultdict(list)
    batches: dict[tuple[str, str, int], list[list[Answer]]] = defaultdict(list)
    until = time.monotonic() + seconds
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:
        for turn in range(TURNS):
            for request in REQUESTS[: max(SIZES)]:
                alone[request].append(await ask(session, url, lesson_body(request, "alone", "reference"), merge=False))
            for (form, kinds), size in itertools.product(FORMS.items(), SIZES):
                for kind in kinds:
                    if time.monotonic() > until:
                        return _lines(alone, batches)
                    bodies = [lesson_body(request, f"{kind}-{size}-{turn}", form) for request in _requests(kind, size)]
                    batches[kind, form, size].append(list(await asyncio.gather(*(ask(session, url, body, merge=True) for body in bodies))))
                    print(f"  turn {turn + 1}: {kind} {form} {size} done", flush=True)
    return _lines(alone, batches)


def _requests(kind: str, size: int) -> list[str]:
    return [REQUESTS[0]] * size if kind == "identical" else list(REQUESTS[:size])


def _lines(alone: dict[str, list[Answer]], batches: dict[tuple[str, str, int], list[list[Answer]]]) -> list[str]:
    return [_line(name, [alone[request] for request in _requests(name[0], name[2])], found) for name, found in batches.items()]


def _line(name: tuple[str, str, int], lone: list[list[Answer]], batches: list[list[Answer]]) -> str:
    """Compare batches with the same lessons alone; `lone`: the answers to each of the batch's requests."""
    alone, merged = list(itertools.chain(*lone)), list(itertools.chain(*batches))
    before = sum(statistics.mean(answer.prompt_tokens for answer in answers) for answers in lone)
    after = statistics.mean(sum(answer.prompt_tokens for answer in batch) for batch in batches)
    written = [statistics.mean(answer.completion_tokens for answer in answers) for answers in (alone, merged)]
    lasts, firsts = ([pick(a.seconds for a in batch) for batch in batches] for pick in (max, min))
    return (
        f"{name[0]:<9} {name[1]:<9} {name[2]}  input {before:>5.0f} -> {after:>5.0f} ({1 - after / before:.1%} saved)  valid "
        f"{_share(a.valid for a in alone)} alone, {_share(a.valid for a in merged)} merged  resent "
        f"{_share(bool(a.resent) for a in merged)}{_reasons(merged)}  output a lesson {written[0]:.0f} -> {written[1]:.0f}  one alone "
        f"{statistics.median(a.seconds for a in alone):.1f} s, first of a batch {statistics.median(firsts):.1f} s, last "
        f"{statistics.median(lasts):.1f} s"
    )


def _reasons(answers: list[Answer]) -> str:
    found = sorted({answer.resent for answer in answers if answer.resent})
    return f" ({', '.join(found)})" if found else ""


def _share(hits: Any) -> str:
    found = list(hits)
    return f"{sum(found)}/{len(found)}"


def _entry(url: str, name: str, form: str) -> dict[str, Any]:
    lessons = {"like": "llama.cpp", "max_output_tokens": 4096, "entries": form}
    params = {"model": f"openai/{name}", "api_base": f"{url}/v1", "api_key": "none"}
    return {"model_name": form, "litellm_params": params, "model_info": {"lessons": lessons}}


def main() -> list[str]:
    """Print the comparison, or how to get it."""
    url = os.environ.get("LESSON_PROXY_REALMODEL")
    if not url:
        print("realmodel: not measured; set LESSON_PROXY_REALMODEL to the address of a llama.cpp server, such as http://127.0.0.1:8080")
        return []
    name = os.environ.get("LESSON_PROXY_REALMODEL_NAME", "default")
    seconds = float(os.environ.get("LESSON_PROXY_REALMODEL_SECONDS", "720"))
    print(f"realmodel: {conditions()}; {name}; at most {seconds:.0f} s; usage as the server tells it, resends and failed entries included")
    config = {
        "model_list": [_entry(url, name, form) for form in FORMS],
        "lessons": {"merge": {"max_added_seconds": {"json": 600, "stream": 600}, "first_token_seconds": 120}},
    }
    with proxy(config, core=None) as server:
        lines = uvloop.run(measure(server.url, seconds))
    for line in lines:
        print(line, flush=True)
    return lines


if __name__ == "__main__":
    main()
