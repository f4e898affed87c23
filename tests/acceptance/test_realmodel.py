"""Callers of a real model server that leave: its slot frees. Optional: needs the server that `make bench ARGS=realmodel` measures."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import httpx
import pytest

from proxy.model import Json
from tests.acceptance.conftest import Serve, Served
from tests.acceptance.learners import ask, call

SERVER = os.environ.get("LESSON_PROXY_REALMODEL", "")
NAME = os.environ.get("LESSON_PROXY_REALMODEL_NAME", "local")
pytestmark = pytest.mark.skipif(
    not SERVER, reason="no real model server: start llama.cpp's with --metrics, and set LESSON_PROXY_REALMODEL=http://127.0.0.1:PORT"
)
CONFIG = """
model_list:
  - model_name: m
    litellm_params: {{model: "openai/{name}", api_base: "{server}/v1", api_key: none}}
    model_info: {{lessons: {{like: llama.cpp}}}}
lessons:
  window: {{max_wait_ms: 3000, hinted_max_wait_ms: 3000, policy: fixed}}
  merge: {{first_token_seconds: 120}}
"""
PROCESSING = "llamacpp:requests_processing "
FREES_WITHIN_S = 1.0


async def processing(client: httpx.AsyncClient) -> int:
    """Return how many of the server's slots are at work."""
    lines = (await client.get(f"{SERVER}/metrics")).text.splitlines()
    return int(float(next(line for line in lines if line.startswith(PROCESSING)).removeprefix(PROCESSING)))


async def until_processing(client: httpx.AsyncClient, count: int, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while await processing(client) != count:  # noqa: ASYNC110 - another process's state can only be asked for
            await asyncio.sleep(0.02)


@pytest.fixture
async def proxied(serve: Serve, tmp_path: Path) -> Served:
    file = tmp_path / "proxy.yaml"
    file.write_text(CONFIG.format(name=NAME, server=SERVER))
    return await serve("--config", str(file))


def lesson(i: int, *, stream: bool) -> Json:
    """A lesson in the form that the server can be forced to: every string bounded, the one tool required."""
    # long enough to be left in the middle, and short enough for the server's grammars
    fields = {name: {"type": "string", "minLength": 500, "maxLength": 900} for name in ("title", "content", "summary")}
    schema: Json = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    tools = [{"type": "function", "function": {"name": "create_lesson", "parameters": schema}}]
    return ask("m", i, stream=stream, tools=tools, tool_choice="required", parallel_tool_calls=False, max_tokens=1500)


# not a lone call for a whole answer: the server writes that to its end, whoever hangs up on it
@pytest.mark.parametrize(("callers", "stream"), [(1, True), (3, True), (3, False)], ids=["alone-sse", "merged-sse", "merged-json"])
async def test_when_the_last_caller_has_left_the_servers_slot_frees(proxied: Served, callers: int, *, stream: bool) -> None:
    async with httpx.AsyncClient(timeout=20.0) as client:
        await until_processing(client, 0, 60)
        hint = {"x-lesson-expect": str(callers)}
        calls = [asyncio.create_task(call(proxied.client, i, lesson(i, stream=stream), **hint)) for i in range(callers)]
        await until_processing(client, 1, 20)
        for leaver in calls[1:]:
            leaver.cancel()
        await asyncio.sleep(0.2)
        assert await processing(client) == 1, "somebody still waits"
        calls[0].cancel()
        await until_processing(client, 0, FREES_WITHIN_S)
