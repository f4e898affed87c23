"""The files that put the proxy to work in containers agree with its defaults, as far as that can be read without an engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from proxy.settings import load

ROOT = Path(__file__).parents[2]
DEFAULTS = load(None, env={})
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
REPLICAS = {name: service for name, service in SERVICES.items() if name.startswith("replica-")}
NGINX = (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8")


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def test_the_engine_waits_for_replicas_that_drain_and_nginx_for_them() -> None:
    graces = [seconds(service["stop_grace_period"]) for service in REPLICAS.values()]
    assert min(graces) > DEFAULTS.drain_seconds
    assert seconds(SERVICES["nginx"]["stop_grace_period"]) > max(graces)


def test_every_service_has_bounds_and_may_do_nothing_but_its_work() -> None:
    for name, service in SERVICES.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name


def test_files_that_services_read_are_there() -> None:
    mounted = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ()) if volume.startswith("./")]
    assert mounted
    assert [path for path in mounted if not (ROOT / path).is_file()] == []


def test_no_secret_stands_in_the_file() -> None:
    assert REPLICAS
    for service in REPLICAS.values():
        assert service["environment"]["LESSON_PROXY_REDIS_SECRET"].startswith("${LESSON_PROXY_REDIS_SECRET:?")


def test_nginx_and_prometheus_know_every_replica() -> None:
    asked: Any = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text(encoding="utf-8"))
    targets = asked["scrape_configs"][0]["static_configs"][0]["targets"]
    assert [target.split(":")[0] for target in targets] == list(REPLICAS)
    assert re.findall(r"server (replica-\d+):4000", NGINX) == list(REPLICAS)


def test_nginx_takes_what_the_proxy_takes_and_waits_as_long() -> None:
    assert f"client_max_body_size {DEFAULTS.bounds.body_mb:g}m;" in NGINX
    timeout = re.search(r"proxy_read_timeout (\d+)s", NGINX)
    assert timeout
    assert int(timeout[1]) > (DEFAULTS.timeout_s or 600)
    assert "proxy_buffering off;" in NGINX
