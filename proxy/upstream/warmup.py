"""Makes litellm's first calls to a server of its own, so that the first real call doesn't wait a second for what they load.

It knows the two drivers that OpenAI-compatible providers go through: the OpenAI SDK and litellm's own HTTP handler.
"""

from __future__ import annotations

import asyncio
from typing import Any

_MODELS = ("openai/warm", "hosted_vllm/warm")
_TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
_CHUNK = (
    b'data: {"id":"w","object":"chat.completion.chunk","created":1,"model":"w","choices":[{"index":0,"delta":%s,"finish_reason":%s}]}\n\n'
)
_CALL = b'{"role":"assistant","tool_calls":[{"index":0,"id":"w","type":"function","function":{"name":"f","arguments":"{}"}}]}'
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
_ANSWER = _HEAD + _CHUNK % (_CALL, b"null") + _CHUNK % (b"{}", b'"tool_calls"') + b"data: [DONE]\n\n"

_warmed: set[int] = set()
"""Which litellm modules have been warmed in this process."""


async def warm(litellm: Any) -> None:
    """Make the first calls, once a process; nothing leaves the machine."""
    if id(litellm) in _warmed:
        return
    server = await asyncio.start_server(_answer, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        for model in _MODELS:
            await _call(litellm, model, f"http://127.0.0.1:{port}/v1")
        litellm.token_counter(model="gpt-4o", text="warm")
    finally:
        server.close()
        await server.wait_closed()
    _warmed.add(id(litellm))


async def _call(litellm: Any, model: str, base: str) -> None:
    stream = await litellm.acompletion(
        model=model,
        api_base=base,
        api_key="warm",
        messages=[{"role": "user", "content": "warm"}],
        tools=[_TOOL],
        tool_choice={"type": "function", "function": {"name": "f"}},
        stream=True,
        num_retries=0,
        max_retries=0,
    )
    async for _ in stream:
        pass


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b"content-length: 0")
    await reader.readexactly(int(length.partition(b":")[2]))
    writer.write(_ANSWER)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
