"""What docs/openapi.yaml describes, and what it forbids, sent to a running proxy: no answer but the described ones, and never a 500."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.acceptance.conftest import Process

schemathesis: Any = import_module("schemathesis")
checks: Any = import_module("schemathesis.specs.openapi.checks")
DESCRIPTION: Any = schemathesis.openapi.from_path(str(Path(__file__).parent.parent.parent / "docs" / "openapi.yaml"))
CHECKS: list[Any] = [
    import_module("schemathesis.checks").not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
SLOW = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)
EXAMPLES = 30
"""For each path."""


@DESCRIPTION.parametrize()
@settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=SLOW)
def test_no_call_ends_in_a_500(case: Any, standing_process: Process) -> None:
    case.call_and_validate(base_url=standing_process.url, checks=CHECKS, timeout=20)


def test_every_listed_path_is_described() -> None:
    described = set(DESCRIPTION.raw_schema["paths"])
    assert {"/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/embeddings", "/v1/models"} <= described
    assert {"/v1/lessons/batch", "/v1/lessons/variants", "/health/live", "/health/ready", "/metrics"} <= described


@pytest.fixture(scope="module", autouse=True)
def _nothing_broke(standing_process: Process) -> Any:
    """A fault of our own would stand in the log."""
    yield
    assert not [line for line in standing_process.log() if line.get("action") == "faulted"]
