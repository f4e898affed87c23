"""litellm.Router for the model names that have several deployments or fallbacks; the others never meet it.

One deployment alone is never cooled down: a bad key of one caller, or one bad minute, must not stop all others.
"""

from __future__ import annotations

import inspect
from typing import Any

from proxy.upstream.config import UpstreamConfig, UpstreamConfigError
from proxy.upstream.deployments import Routes, Target

_LOUD = frozenset({"set_verbose", "debug_level", "alerting_config"})


def build(litellm: Any, config: UpstreamConfig, routes: Routes) -> Any | None:
    """Return the Router over all entries with the operator's keys; None where no name needs one.

    Raises UpstreamConfigError for settings that litellm.Router doesn't take.
    """
    taken = inspect.signature(litellm.Router.__init__).parameters
    unknown = [f"router_settings.{name}: litellm.Router takes no such setting" for name in config.router_settings if name not in taken]
    unknown += [f"router_settings.{name}: not supported" for name in sorted(_LOUD & config.router_settings.keys())]
    if unknown:
        raise UpstreamConfigError(sorted(unknown))
    if not routes.routed():
        return None
    groups = {name: targets for name, targets in routes.groups().items() if not targets[0].entry.api_key_is_callers}
    listed = [_listed(name, target, alone=len(targets) == 1) for name, targets in groups.items() for target in targets]
    try:
        return litellm.Router(model_list=listed, num_retries=config.num_retries, timeout=config.timeout_s, **config.router_settings)
    except Exception as error:
        # the border: it raises what it likes, in words that may quote a key
        raise UpstreamConfigError([f"router_settings: litellm.Router can't be built from these ({type(error).__name__})"]) from error


def _listed(name: str, target: Target, *, alone: bool) -> dict[str, Any]:
    info: dict[str, Any] = {"id": target.id}
    if alone:
        info["cooldown_time"] = 0
    return {"model_name": name, "litellm_params": dict(target.entry.litellm_params), "model_info": info}


async def choose(router: Any, alias: str, targets: tuple[Target, ...]) -> Target:
    """Return the deployment that the Router would use now; raises what litellm raises where all are in cooldown."""
    chosen: dict[str, Any] = await router.async_get_available_deployment(model=alias, request_kwargs={})
    wanted: str = chosen["model_info"]["id"]
    # its patterns match prefixes too, so it may have found another one than ours
    return next((target for target in targets if target.id == wanted), targets[0])
