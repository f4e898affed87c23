"""The wheel alone, away from the source tree, is a whole proxy."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_the_embedded_default_and_the_rules_and_works_elsewhere(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    assert (site / "proxy" / "config" / "proxy.yaml").read_bytes() == (ROOT / "config" / "proxy.yaml").read_bytes()
    env = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "proxy", "check"]
    done = subprocess.run(command, check=False, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"ok {site}" in done.stdout
    assert "merged" in done.stdout
