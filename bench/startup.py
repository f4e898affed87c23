"""How long the pure rooms take to import, and the proxy to be ready."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

from bench.harness import conditions, model_at, proxy

RUNS = 5
PURE = "proxy.lessons.recognise, proxy.lessons.merge, proxy.lessons.split, proxy.lessons.render, proxy.sites, proxy.windows.book"
PROGRAM = f"""
import time
started = time.perf_counter()
import {PURE}
took = time.perf_counter() - started
import sys
assert "litellm" not in sys.modules
print(took)
"""


def main() -> dict[str, float]:
    """Print both, as medians."""
    print(f"startup: {conditions()}; {RUNS} runs, medians")
    # as installed: pip writes the bytecode, and a machine that forbids it would measure the compiler
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    imports = [float(subprocess.check_output([sys.executable, "-c", PROGRAM], env=env)) for _ in range(RUNS + 1)][1:]
    ready: list[float] = []
    for _ in range(RUNS):
        with proxy({"model_list": [model_at("http://127.0.0.1:9")]}, core=None) as server:
            ready.append(server.ready_s)
    import_s, ready_s = statistics.median(imports), statistics.median(ready)
    print(f"import of the pure rooms {import_s:.3f} s (no litellm); process started to ready {ready_s:.1f} s")
    return {"import_s": import_s, "ready_s": ready_s}


if __name__ == "__main__":
    main()
