"""`simulate`: the simulated provider as a process of its own."""

from __future__ import annotations

from dataclasses import dataclass

from proxy import simulated
from proxy.cli import screen


@dataclass(frozen=True, slots=True)
class Simulation:
    """The options of `simulate`."""

    host: str = "127.0.0.1"
    port: int = 4010
    tokens_per_second: float | None = None
    first_token_ms: float = 0.0
    seed: int = 0
    dialect: str = "plain"


def run(simulation: Simulation) -> int:
    """Serve until the process is told to stop; return its exit code."""
    if simulation.dialect not in simulated.DIALECTS:
        for name, dialect in simulated.DIALECTS.items():
            screen.line(f"{name:<10} {dialect.says}")
        return 0 if simulation.dialect == "list" else 1
    try:
        return simulated.run(
            simulation.port,
            simulation.host,
            tokens_per_second=simulation.tokens_per_second,
            first_token_ms=simulation.first_token_ms,
            seed=simulation.seed,
            dialect=simulation.dialect,
            ready=lambda provider: screen.line(
                f"simulated provider: {provider.url} (models by name: `any+FAULT` fails, `groq+any` answers as Groq would; counts: /stats)"
            ),
        )
    except OSError as error:
        screen.line(f"can't listen on {simulation.host}:{simulation.port}: {error.strerror}", stderr=True, style="red")
        return 1
