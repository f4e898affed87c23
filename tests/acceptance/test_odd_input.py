"""What callers may send wrong, and what is odd but right: a clear error in OpenAI's form, or the answer; never a 500, and nothing waits."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.acceptance.conftest import Served
from tests.make import make_user_text

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
MESSAGES = '"messages": [{"role": "user", "content": "Hello."}]'
SCHEMA = '{"type": "object", "properties": {"title": {"type": "string"}}}'

FINE: dict[str, tuple[str, str]] = {
    "nulls": (CHAT, f'{{"model": "named", {MESSAGES}, "stop": null, "n": 1, "tools": [], "seed": null, "response_format": null}}'),
    "developer": (
        CHAT,
        '{"model": "named", "messages": [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "Hi"}]}',
    ),
    "legacy functions": (CHAT, f'{{"model": "named", {MESSAGES}, "functions": [{{"name": "f", "parameters": {SCHEMA}}}]}}'),
    "doubled keys": (
        CHAT,
        f'{{"model": "no-such-model+no", "model": "named", {MESSAGES}, "messages": [{{"role": "user", "content": "x"}}]}}',
    ),
    "unknown fields": (CHAT, f'{{"model": "named", {MESSAGES}, "ünknown": {{"a": [1, null]}}, "x": -0.0}}'),
    "a huge whole number": (CHAT, f'{{"model": "named", {MESSAGES}, "seed": {"9" * 60}}}'),
    "a number's every digit": (CHAT, f'{{"model": "named", {MESSAGES}, "temperature": 0.{"3" * 400}}}'),
    "spaces": (CHAT, f' \n\t{{"model" :\r\n"named", {MESSAGES}}}\n '),
    "empty text": (RESPONSES, '{"model": "named", "input": "Hi", "text": {}}'),
    "response nulls": (
        RESPONSES,
        '{"model": "named", "input": "Hi", "text": null, "reasoning": {}, "tools": [], "store": null, "user": null}',
    ),
    "response tool choice without tools": (RESPONSES, '{"model": "named", "input": "Hi", "tools": [], "tool_choice": "auto"}'),
    "response developer": (
        RESPONSES,
        '{"model": "named", "input": [{"role": "developer", "content": "x"}, {"role": "user", "content": "y"}]}',
    ),
    "response parts": (RESPONSES, '{"model": "named", "input": [{"role": "user", "content": [{"type": "input_text", "text": "y"}]}]}'),
    "response of nothing": (RESPONSES, '{"model": "named", "input": ""}'),
}
WRONG: dict[str, tuple[str, str, int]] = {
    "no JSON": (CHAT, "{", 400),
    "nothing": (CHAT, "", 400),
    "a list": (RESPONSES, "[]", 400),
    "no model": (CHAT, f"{{{MESSAGES}}}", 400),
    "a model that is a number": (RESPONSES, '{"model": 5, "input": "x"}', 400),
    "no messages": (CHAT, '{"model": "named"}', 400),
    "messages that are text": (CHAT, '{"model": "named", "messages": "Hi"}', 400),
    "messages of text": (CHAT, '{"model": "named", "messages": ["Hi"]}', 400),
    "a message without a role": (CHAT, '{"model": "named", "messages": [{"content": "x"}]}', 400),
    "tool choice without tools": (CHAT, f'{{"model": "named", {MESSAGES}, "tool_choice": "required"}}', 400),
    "a number beyond numbers": (CHAT, f'{{"model": "named", {MESSAGES}, "temperature": 1e400}}', 400),
    "not a number": (CHAT, f'{{"model": "named", {MESSAGES}, "temperature": NaN}}', 400),
    "depth": (CHAT, f'{{"model": "named", {MESSAGES}, "x": {"[" * 3000}{"]" * 3000}}}', 400),
    "a stream that is text": (RESPONSES, '{"model": "named", "input": "x", "stream": "yes"}', 400),
    "no input": (RESPONSES, '{"model": "named"}', 400),
    "an input that is a number": (RESPONSES, '{"model": "named", "input": 5}', 400),
    "an input of text": (RESPONSES, '{"model": "named", "input": ["x"]}', 400),
    "an item of no known type": (RESPONSES, '{"model": "named", "input": [{"type": {}}]}', 400),
    "tools that are none": (RESPONSES, '{"model": "named", "input": "x", "tools": 5}', 400),
    "no such model": (RESPONSES, '{"model": "any+no_such_fault", "input": "x"}', 404),
    "no such answer": (RESPONSES, '{"model": "named", "input": "x", "previous_response_id": "resp_1"}', 400),
    "an endless name": (CHAT, f'{{"model": "{"m" * 5000}", {MESSAGES}}}', 404),
    "a name that no header holds": (CHAT, f'{{"model": "a\\nb", {MESSAGES}}}', 400),
    "a body too large": (CHAT, f'{{"model": "named", {MESSAGES}, "x": "{"y" * 600_000}"}}', 413),
}


async def send(served: Served, path: str, body: str) -> httpx.Response:
    return await served.client.post(path, content=body.encode("utf-8", "surrogatepass"), headers={"content-type": "application/json"})


@pytest.mark.parametrize("name", FINE)
async def test_what_is_odd_but_right_is_answered(standing: Served, name: str) -> None:
    path, body = FINE[name]
    answer = await send(standing, path, body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["object"] == ("response" if path == RESPONSES else "chat.completion")


@pytest.mark.parametrize("name", WRONG)
async def test_what_is_wrong_is_told_in_openais_form(standing: Served, name: str) -> None:
    path, body, status = WRONG[name]
    answer = await send(standing, path, body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert len(answer.content) < 3_000, "an error quotes no body"


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
async def test_half_an_emoji_reaches_upstream_as_it_was_written(standing: Served, path: str) -> None:
    """JavaScript's slicing leaves such; what upstream makes of it is upstream's, and never a fault of ours."""
    said = '"messages": [{"role": "user", "content": "\\ud83d"}]' if path == CHAT else '"input": "\\ud83d"'
    answer = await send(standing, path, f'{{"model": "named", {said}}}')
    assert answer.status_code in (200, 400)
    if answer.status_code == 400:
        assert answer.json()["error"]["message"].startswith("We could not parse the JSON body of your request")


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
async def test_odd_but_right_lessons_share_a_batch_with_plain_ones(standing: Served, path: str) -> None:
    """What asks for nothing parts no calls; half an emoji in a prompt does not stop its companions."""
    texts = [make_user_text(request=f"Create a lesson. {more}") for more in ("One.", "Two. \\ud83d", "Three.")]
    odd = (
        '"stop": null, "n": 1, "tools": []' if path == CHAT else '"text": {}, "tools": [], "tool_choice": "auto", "store": true',
        '"logprobs": false' if path == CHAT else '"truncation": "auto"',
    )
    field = '"messages": [{"role": "user", "content": "%s"}]' if path == CHAT else '"input": "%s"'
    bodies = [
        f'{{"model": "named", "user": "odd", {field % text.replace(chr(10), chr(92) + "n")}, {more}}}'
        for text, more in zip(texts, (odd[0], odd[1], odd[0]), strict=True)
    ]
    headers = {"x-lesson-expect": "3", "content-type": "application/json"}
    answers = await asyncio.gather(*(standing.client.post(path, content=body, headers=headers) for body in bodies))
    assert [answer.status_code for answer in answers] == [200] * 3, [answer.text for answer in answers]
    assert [answer.headers["x-lesson-merged"] for answer in answers] == ["true"] * 3, [dict(answer.headers) for answer in answers]
