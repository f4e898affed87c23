"""A proxy in a process of its own, and for each client three providers behind it: one answers at once, two write slowly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from proxy.simulated import Provider
from tests.acceptance.conftest import Process
from tests.clients.clients import Client

TOGETHER = 3
Pace = Literal["fast", "slow", "slower"]
_TOKENS_PER_SECOND: Mapping[Pace, float | None] = {"fast": None, "slow": 50.0, "slower": 15.0}
"""Batches end in seconds with `slow`, and in no test's time with `slower`."""
_ENTRY = '  - {{model_name: "{name}*", litellm_params: {{model: "openai/{name}*", api_base: "{base}", api_key: sk-of-the-operator}}}}\n'
_REST = f"""
# nothing is repeated here, so that each client meets every failure itself; three that come together are waited for however
# long a loaded machine needs, a lone call no longer than usual
router_settings: {{num_retries: 0, timeout: 12}}
lessons:
  window: {{max_wait_ms: 10000, max_size: {TOGETHER}, policy: fixed}}
  recognise:
    - {{name: nobody comes, when: {{model: "*-alone-*"}}, window: {{max_wait_ms: 100, policy: fixed}}}}
"""


@dataclass(frozen=True, slots=True)
class Side:
    """What stands behind one client's models."""

    slug: str
    providers: Mapping[Pace, Provider]

    def model(self, name: str, pace: Pace = "fast") -> str:
        """Return the model of this name: as clients read names, one of a known family."""
        return f"gpt-4o-mini-{pace}-{self.slug}-{name}"

    def requests(self, model: str) -> int:
        """Tell how many requests for a model have reached its provider."""
        return sum(provider.stats.models[model] for provider in self.providers.values())


@dataclass(frozen=True, slots=True)
class Stage:
    """What all clients talk to."""

    process: Process
    sides: Mapping[str, Side]


@asynccontextmanager
async def staged(folder: Path, clients: Sequence[Client]) -> AsyncGenerator[Stage]:
    """Start everything; the providers run in this event loop."""
    async with AsyncExitStack() as stack:
        sides: dict[str, Side] = {}
        for client in clients:
            paces = _TOKENS_PER_SECOND.items()
            running: dict[Pace, Provider] = {
                pace: await stack.enter_async_context(Provider.running(tokens_per_second=speed)) for pace, speed in paces
            }
            sides[client.name] = Side(client.slug, running)
        file = folder / "proxy.yaml"
        file.write_text("model_list:\n" + "".join(map(_entries, sides.values())) + _REST)
        process = await asyncio.to_thread(Process.start, folder, "--config", str(file))
        stack.callback(process.kill)
        yield Stage(process, sides)


def _entries(side: Side) -> str:
    return "".join(_ENTRY.format(name=side.model("", pace), base=provider.url) for pace, provider in side.providers.items())
