"""Other gateways beside the proxy: where their programs are, and the leanest set-up of each that does the same job.

The job: one OpenAI-compatible upstream, any caller, no database, nothing logged of calls. `make bench-peers` installs them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

_HERE = Path(__file__).parent
_ENVIRONMENTS = _HERE.parent / ".peers"
MODEL = "bench-model"


@dataclass(frozen=True)
class Start:
    """How one gateway is started."""

    command: list[str]
    env: Mapping[str, str]


@dataclass(frozen=True)
class Gateway:
    """One gateway; `set_up` is given the upstream's address, its own port and an empty folder."""

    name: str
    health: str
    told: str
    """What of its set-up is worth knowing."""
    set_up: Callable[[Path, str, int, Path], Start]

    @property
    def program(self) -> Path:
        return _ENVIRONMENTS / self.name / "bin" / self.name

    @property
    def version(self) -> str:
        lock = (_HERE / "peers" / f"{self.name}.lock").read_text()
        found = re.search(rf"^{self.name}(?:\[\w+\])?==(\S+)", lock, re.MULTILINE)
        assert found
        return found[1]


def _litellm(program: Path, upstream: str, port: int, folder: Path) -> Start:
    config = folder / "litellm.yaml"
    params = {"model": f"openai/{MODEL}", "api_base": f"{upstream}/v1", "api_key": "bench"}
    models = [{"model_name": MODEL, "litellm_params": params}]
    config.write_text(yaml.safe_dump({"model_list": models, "router_settings": {"num_retries": 0}}))
    command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    # any caller, as the proxy's own `access.mode: open`
    open_to_all = {"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}
    quiet = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    return Start([*command, "--telemetry", "False"], _env(folder, **open_to_all, **quiet))


def _ferrogw(program: Path, upstream: str, port: int, folder: Path) -> Start:
    config = folder / "ferrogw.yaml"
    config.write_text(yaml.safe_dump({"strategy": {"mode": "single"}, "targets": [{"virtual_key": "openai", "models": [MODEL]}]}))
    where = {"GATEWAY_CONFIG": str(config), "OPENAI_BASE_URL": f"{upstream}/v1", "OPENAI_API_KEY": "bench", "PORT": str(port)}
    # any caller, as many calls as come
    open_to_all = {"ALLOW_UNAUTHENTICATED_PROXY": "true", "RATE_LIMIT_RPS": "0", "LOG_LEVEL": "error"}
    return Start([str(program), "serve"], _env(folder, **where, **open_to_all))


def _env(folder: Path, **own: str) -> dict[str, str]:
    """Return the surroundings of a gateway: nothing of this account's."""
    return {"PATH": os.environ["PATH"], "HOME": str(folder), **own}


GATEWAYS = (
    Gateway("litellm", "/health/liveliness", "its proxy in Python, `openai/`, one worker, no key, no database, no retries", _litellm),
    Gateway("ferrogw", "/readyz", "in Go, strategy single, no key, no plugins; it can only listen on every address", _ferrogw),
)
