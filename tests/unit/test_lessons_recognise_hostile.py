"""Prompts made to cost time: a megabyte of anything is decided within the bound."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from proxy.lessons.forms.chat import MAX_TEXT_CHARS
from proxy.lessons.recognise import Recogniser
from proxy.model import Unbatchable
from proxy.policy import LessonPolicy, Rule
from tests.make import LESSON_SCHEMA, make_body, make_call
from tests.timing import cpu_s

RULES = TypeAdapter(tuple[Rule, ...]).validate_python(
    yaml.safe_load((Path(__file__).parent.parent.parent / "proxy" / "rules.yaml").read_text(encoding="utf-8"))
)
SHIPPED = Recogniser(LessonPolicy(rules=RULES))
HEAD = "Subject: Maths\nTopic: Ratios\nWrite one lesson.\n"
PROMISED_S = 0.05


def _yardstick_s() -> float:
    """Return the CPU seconds of a fixed piece of like work: a fifth of the promise on a machine that keeps it."""
    text = "words and words, " * 30_000
    return cpu_s(lambda: re.findall(r"[^\W_]+", text), tries=5)


YARDSTICK_S = _yardstick_s()
# twice the promise, more on a slower machine: far below what a quadratic reader takes
BOUND_S = max(2 * PROMISED_S, 10 * YARDSTICK_S)

_WORDS = " ".join(p for r in RULES for p in (*r.when.prompt_any, *r.when.prompt_none)).replace("*", "").split()
_RANDOM = random.Random(7)
HOSTILE = {
    "lessons": "lesson ",
    "numbers": "3 lessons ",
    "objects": "create a lesson for ",
    "labels": "a:\n",
    "newlines": "\n",
    "topics": "Topic: x\n",
    "inline topics": ", topic: x",
    "bare topics": "topic ",
    "open objects": '{"a":',
    "open braces": "{",
    "open strings": '{ "',
    "objects in a row": '{"a":1}',
    "spaces": " ",
    "full stops": ". ",
    "bullets": "- ",
    "bullet lines": "- \n",
    "one word": "a",
    "stars": "*",
    "tags": "<topic>",
    "titles": "## topic\n",
    "dashes": "topic - ",
    "commas": "Topic: a ,a ,a ,a ,a ,a ,a\n",
    "accents": "é",
    "combining marks": "\u0301\u0316",
    "long compatibility forms": "\ufdfa",
    "dotted capitals": "İ",
    "unspaced script": "一节课",
    "surrogates": "\ud800",
    "phrases in order": " ".join(_WORDS) + " ",
    "phrases at random": " ".join(_RANDOM.choices(_WORDS, k=20_000)),
    "code blocks": "```\n",
    "quotations": "> topic: x\n",
    "invisible": "\u200b",
    "hidden labels": "To\u200bpic: x ",
    "questions": "why? ",
    "long questions": "why " * 60 + "? ",
    "objects of another language": "{'a': 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', ",
    "formats": 'format: {"a":1}\n',
    "tags with values": "<topic>x</topic>",
    "labels in a sentence": "topic: ",
    "names of labels": "the topic the subject lesson topic ",
    "stacked accents": "a" + "\u0301\u0316\u0317" * 50,
    "composable": "e\u0301",
    "full stops of another script": "\u3002",
    "letters between stops": "\u3002a",
    "vowel signs": "\u0915\u093e ",
    "marks out of order": "a\u0316\u0301" + "\u0316\u0301" * 50,
    "full-width labels": "\uff34\uff4f\uff50\uff49\uff43\uff1ax\n",
    "requests": "create lesson ",
    "no requests": "not never no create a lesson objectives ",
    "running text": "a ratio compares two numbers by division and so on. ",
    "digits": "7",
    "long values": "Topic: " + "9" * 5_000 + "\n",
    "deep object": '{"a":' * 5_000 + "1" + "}" * 5_000,
    "long list": json.dumps({"topic": "x", "data": [{"content": "y"}] * 7_000}),
}


def seconds(body: Any) -> float:
    call = replace(make_call(), body=body, raw=b"")
    return cpu_s(lambda: SHIPPED.judge(call))


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("size", [MAX_TEXT_CHARS, 1_000_000], ids=["just within", "a megabyte"])
def test_hostile_prompt_is_decided_in_time(unit: str, size: int) -> None:
    text = (HEAD + unit * (size // len(unit) + 1))[:size]
    assert seconds(make_body(messages=[{"role": "user", "content": text}])) < BOUND_S
    assert seconds(make_body(tools=None, tool_choice=None, messages=[{"role": "user", "content": text}])) < BOUND_S


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
def test_hostile_system_text_is_decided_in_time(unit: str) -> None:
    size = MAX_TEXT_CHARS - 1_000
    messages = [{"role": "system", "content": (unit * (size // len(unit) + 1))[:size]}, {"role": "user", "content": HEAD}]
    assert seconds(make_body(messages=messages)) < BOUND_S


def test_megabyte_elsewhere_is_decided_in_time() -> None:
    long = "x" * 1_000_000
    assert seconds(make_body(user=long)) < BOUND_S
    assert seconds(make_body(x=10**4_000)) < BOUND_S
    assert seconds(make_body(messages=[{"role": "user", "content": HEAD + "".join(f"label {n}: x\n" for n in range(100_000))}])) < BOUND_S
    assert seconds(make_body(messages=[{"role": "user", "content": HEAD + "".join(f"l{n}: x\n" for n in range(5_000))}])) < BOUND_S
    assert seconds(make_body(model=long)) < BOUND_S
    assert seconds(make_body(metadata={str(number): long[:100] for number in range(10_000)})) < BOUND_S
    assert seconds(make_body(messages=[{"role": "user", "content": [{"type": "text", "text": "x"}] * 20_000}])) < BOUND_S
    assert seconds(make_body(messages=[{"role": "user", "content": "x"}] * 50_000)) < BOUND_S


def test_megabyte_of_schema_is_decided_in_time() -> None:
    def tool(parameters: Any, **more: Any) -> Any:
        return make_body(tools=[{"type": "function", "function": {"name": "create_lesson", "parameters": parameters, **more}}])

    wide = LESSON_SCHEMA | {"properties": {f"content_{number}": {"$ref": "#/x"} for number in range(50_000)}}
    assert seconds(tool(wide)) < BOUND_S
    assert seconds(tool(LESSON_SCHEMA | {"enum": ["x"] * 200_000, "$comment": "x"})) < BOUND_S
    assert seconds(tool(LESSON_SCHEMA, description="create a lesson " * 60_000)) < BOUND_S


def test_prompt_beyond_the_bound_says_so() -> None:
    call = make_call(body=make_body(messages=[{"role": "user", "content": HEAD + "x" * MAX_TEXT_CHARS}]))
    assert SHIPPED.judge(call) == Unbatchable("too_long")


def test_more_values_than_a_prompt_would_hold_are_not_read() -> None:
    """Four hundred topics are no request for a lesson, even where they are all the same."""
    for topics in ("Topic: x\n" * 500, "Topic: a, topic: a\n" * 250, "> topic: x\n" * 500):
        call = make_call(body=make_body(messages=[{"role": "user", "content": HEAD + topics}]))
        assert SHIPPED.judge(call) == Unbatchable("too_long", "lesson tool or schema")
