"""What the pure rooms bring along when they are imported: a start that is slow is slow for every command and test."""

from __future__ import annotations

import json
import os
import subprocess
import sys

PURE = (
    "proxy.lessons.recognise",
    "proxy.lessons.merge",
    "proxy.lessons.split",
    "proxy.lessons.render",
    "proxy.sites",
    "proxy.windows.book",
    "proxy.windows.replica",
    "proxy.windows.store",
)
DEAR = (
    "annotated_types",
    "asyncio",
    "decimal",
    "email",
    "fractions",
    "jsonschema_rs",
    "litellm",
    "pydantic",
    "socket",
    "ssl",
    "urllib",
    "yaml",
)


def test_the_pure_rooms_bring_nothing_dear_along() -> None:
    """Each of these costs more than a room; what needs one imports it where it is used."""
    program = f"import json, sys; import {', '.join(PURE)}; print(json.dumps(sorted(sys.modules)))"
    # what measures coverage would bring modules of its own
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", program], env=environment))
    assert set(PURE) <= set(loaded)
    assert set(DEAR).isdisjoint(loaded)
