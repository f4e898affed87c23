"""One of several workers on a machine: where it listens, whom it follows, and what it tells its siblings.

The one who started them holds the other end of `link`: it reads there that this worker is ready, and when it is gone
itself, the worker stops. Metrics are asked for at a socket in a folder that the workers have for themselves: whichever
worker is scraped, it answers for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from proxy.observe.joint import joint

_ANSWER_S = 1.0
"""How long a sibling may take to tell its metrics; one that is busy for longer is left out."""
_LONGEST = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Post:
    """A worker's place, as it is told by whoever starts it: numbers of inherited file descriptors, and a folder."""

    number: int
    listening: tuple[int, ...]
    link: int
    folder: str

    def sockets(self) -> list[socket.socket]:
        """Return the sockets on which all workers listen."""
        return [socket.socket(fileno=descriptor) for descriptor in self.listening]


class Crew:
    """One worker among its siblings. `render` gives its own metrics, `stop` is called when whoever started it is gone."""

    def __init__(self, post: Post, render: Callable[[], bytes], stop: Callable[[], None]) -> None:
        self._post = post
        self._render = render
        self._stop = stop
        self._link = socket.socket(fileno=post.link)

    @asynccontextmanager
    async def at_work(self) -> AsyncGenerator[None]:
        """Answer siblings, and watch whether somebody is still there to follow."""
        loop = asyncio.get_running_loop()
        self._link.setblocking(False)
        loop.add_reader(self._link, self._heard)
        own = self._place(str(self._post.number))
        # a worker that was killed has left its own behind
        own.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._tell, path=own)
        try:
            yield
        finally:
            server.close()
            loop.remove_reader(self._link)
            self._link.close()

    def ready(self, _where: str) -> None:
        """Say that calls are welcome."""
        with contextlib.suppress(OSError):
            self._link.send(b"ready")

    async def metrics(self) -> bytes:
        """Return the metrics of all workers that answer."""
        own = str(self._post.number)
        others = [name for name in self._siblings() if name != own]
        texts = await asyncio.gather(*map(self._asked, others))
        told = {own: self._render()} | {name: text for name, text in zip(others, texts, strict=True) if text}
        return joint(dict(sorted(told.items(), key=lambda item: int(item[0]))))

    def _heard(self) -> None:
        try:
            data = self._link.recv(64)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._link)
            self._stop()

    async def _tell(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(self._render())
            await writer.drain()
        writer.close()

    async def _asked(self, name: str) -> bytes:
        try:
            async with asyncio.timeout(_ANSWER_S):
                reader, writer = await asyncio.open_unix_connection(self._place(name), limit=_LONGEST)
                try:
                    return await reader.read()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return b""

    def _siblings(self) -> list[str]:
        return [place.stem for place in Path(self._post.folder).glob("*.metrics")]

    def _place(self, name: str) -> Path:
        return Path(self._post.folder) / f"{name}.metrics"
