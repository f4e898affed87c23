"""`demo`: the proxy as it runs, between real HTTP traffic and a simulated provider, with and without merging."""

from proxy.cli.demo.show import run

__all__ = ["run"]
