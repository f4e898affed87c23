"""The Makefile's doors, as far as they can be tried without a network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def make(*arguments: str) -> str:
    return subprocess.run(["make", "-s", "-C", ROOT, *arguments], check=True, capture_output=True, text=True).stdout


def test_serving_makes_the_console_script_that_the_readme_calls(tmp_path: Path) -> None:
    """`make serve` on a fresh machine installs the dependencies alone; the script must be there all the same, and run from anywhere."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (tmp_path / "venv" / ".made").touch()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    venv = f"VENV={tmp_path}/venv"
    assert "bin/lesson-proxy" in make("-n", "serve", venv)
    script = python.with_name("lesson-proxy")
    make(str(script), venv)
    done = subprocess.run([script, "check"], check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "simulated/lesson-model" in done.stdout


def test_every_door_that_the_readme_names_is_there() -> None:
    named = set(re.findall(r"make ([a-z]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    told = {line.split()[0] for line in make("help").splitlines()}
    assert {"serve", "test", "check"} <= named <= told
