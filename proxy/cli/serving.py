"""`serve`: what may be started, and where; the server itself is the app's."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from proxy.cli import screen
from proxy.observe.log import Log
from proxy.settings import ConfigError, Mistake, Settings, is_loopback, load


@dataclass(frozen=True, slots=True)
class Start:
    """The options of `serve`."""

    config: Path | None = None
    upstream: str | None = None
    host: str = "127.0.0.1"
    port: int = 4000
    workers: int = 1
    allow_open: bool = False

    def settings(self) -> Settings:
        """Read the configuration, at the start and at each reload; raises ConfigError, also for what may not stand open."""
        settings = load(self.config, upstream=self.upstream)
        if self.workers > 1 and settings.redis.url is None:
            raise ConfigError((Mistake("--workers", "more than one process needs `redis.url`: through it they share their windows"),))
        if not self.allow_open and not is_loopback(self.host):
            _refuse_open(settings, self.host)
        return settings

    def command(self, post: str) -> Sequence[str]:
        """Return the words that start a worker with these options at a post."""
        options = {"--config": self.config, "--upstream": self.upstream, "--host": self.host, "--workers": self.workers}
        given = [str(word) for name, value in options.items() if value is not None for word in (name, value)]
        return (sys.executable, "-m", "proxy", "worker", post, *given, *(["--allow-open"] if self.allow_open else []))


def run(start: Start) -> int:
    """Run the proxy until it is told to stop; return the process's exit code."""
    try:
        settings = start.settings()
        if (problem := _occupied(start.host, start.port)) is not None:
            screen.line(f"can't listen on {start.host}:{start.port}: {problem}", stderr=True, style="red")
            return 1
        if start.workers > 1:
            from proxy.cli.workers import run as run_workers  # noqa: PLC0415 - only where there are several

            log = Log.of_process(settings.log.format, settings.log.level)
            return run_workers(start.workers, (start.host, start.port), start.command, log)
        from proxy.app import run_server  # noqa: PLC0415 - the server and litellm: only for a start that is sound

        return run_server(start.settings, host=start.host, port=start.port)
    except ConfigError as error:
        screen.mistakes(error)
        return 1


def run_worker(start: Start, post: str) -> int:
    """Run one of several workers at its post (JSON, as whoever starts it writes it); return the process's exit code."""
    try:
        from proxy.app import Post, run_server  # noqa: PLC0415 - as above

        return run_server(start.settings, host=start.host, port=start.port, post=Post(**json.loads(post)))
    except ConfigError as error:
        screen.mistakes(error)
        return 1


def _refuse_open(settings: Settings, host: str) -> None:
    spending = settings.operator_key_aliases()
    if settings.access.mode == "open" and spending:
        message = (
            f"open on {host}, while {', '.join(spending)} spends your own key: whoever reaches the port would spend it. "
            "Set `mode: keys`, or listen on 127.0.0.1, or say --allow-open"
        )
        raise ConfigError((Mistake("access.mode", message),))


def _occupied(host: str, port: int) -> str | None:
    """Return why nobody can listen there; told before the seconds that a start takes, and in words."""
    try:
        places = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return "there is no such address"
    for family, kind, protocol, _, address in places:
        try:
            probe = socket.socket(family, kind, protocol)
        except OSError:
            # a kind of address that this machine does not have
            continue
        try:
            # as the server itself will ask
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(address)
        except OSError as error:
            return (error.strerror or str(error)).lower()
        finally:
            probe.close()
    return None
