"""The yardstick: a bare Starlette route over one pooled aiohttp session, which forwards bytes and does nothing else.

Usage: python -m bench.forwarder UPSTREAM_URL PORT
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncGenerator, AsyncIterator

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route


def create(upstream: str) -> Starlette:
    """Build the forwarder."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            app.state.session = session
            yield

    async def forward(request: Request) -> Response:
        body = await request.body()
        headers = {"content-type": "application/json", "authorization": request.headers.get("authorization", "")}
        session: aiohttp.ClientSession = request.app.state.session
        response = await session.post(upstream + "/v1/chat/completions", data=body, headers=headers)
        if response.content_type == "text/event-stream":

            async def chunks() -> AsyncIterator[bytes]:
                async with response:
                    async for chunk in response.content.iter_any():
                        yield chunk

            return StreamingResponse(chunks(), media_type="text/event-stream")
        async with response:
            return Response(await response.read(), response.status, media_type="application/json")

    async def ready(_: Request) -> Response:
        return PlainTextResponse("ready")

    return Starlette(
        routes=[Route("/v1/chat/completions", forward, methods=["POST"]), Route("/health/ready", ready)],
        lifespan=lifespan,
    )


if __name__ == "__main__":
    uvicorn.run(create(sys.argv[1]), port=int(sys.argv[2]), loop="uvloop", http="httptools", access_log=False, log_level="warning")
