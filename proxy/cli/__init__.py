"""The commands, each importing what it needs only when it runs: `--help` and a mistake are answered at once."""

from proxy.cli.commands import app, main

__all__ = ["app", "main"]
