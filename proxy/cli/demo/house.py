"""Starts the proxy as a process of its own, as an operator would, and ends it again."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

_NONE = asyncio.subprocess.DEVNULL
_READY_S = 30.0
_STOP_S = 10.0
_POLL_S = 0.1
_SHOWN_LINES = 20
_LISTENS = re.compile(rb"listens on (http://\S+)")
_CONFIG = """\
# the demo stops at once: no balancer has to notice
drain_grace_seconds: 0
log: {format: json, level: info}
"""


class NotStartedError(Exception):
    """The proxy did not become ready; the message holds the end of its log."""


@asynccontextmanager
async def running_proxy(upstream: str) -> AsyncGenerator[str]:
    """Run a proxy in front of `upstream` and yield its address; raises NotStartedError."""
    with tempfile.TemporaryDirectory(prefix="lesson-proxy-demo-") as folder:
        config, log = Path(folder) / "proxy.yaml", Path(folder) / "proxy.log"
        config.write_text(_CONFIG, encoding="utf-8")
        command = (sys.executable, "-m", "proxy", "serve", "--config", str(config), "--upstream", upstream, "--port", "0")
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(*command, stdin=_NONE, stdout=asyncio.subprocess.PIPE, stderr=output)
        try:
            address = await _address(process)
            if address is None or not await _becomes_ready(address, process):
                raise NotStartedError("the proxy did not become ready:\n" + _end_of(log))
            yield address
        finally:
            await _stop(process)


async def _address(process: asyncio.subprocess.Process) -> str | None:
    """Return where the proxy says that it listens; None: it ended, or took too long."""
    assert process.stdout is not None  # noqa: S101 - it was asked for
    try:
        async with asyncio.timeout(_READY_S):
            async for line in process.stdout:
                if found := _LISTENS.search(line):
                    return found[1].decode()
    except TimeoutError:
        pass
    return None


async def _becomes_ready(address: str, process: asyncio.subprocess.Process) -> bool:
    deadline = time.monotonic() + _READY_S
    async with aiohttp.ClientSession(address) as session:
        while time.monotonic() < deadline and process.returncode is None:
            try:
                async with session.get("/health/ready") as response:
                    if response.status == 200:  # noqa: PLR2004 - HTTP's
                        return True
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(_POLL_S)
    return False


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN_LINES:])
