"""Run the measurements: python -m bench [NAME ...]; without a name all that need nothing but this machine."""

from __future__ import annotations

import importlib
import sys

ALL = ("tokens", "startup", "passthrough", "first_byte", "windows", "policies", "day", "loops", "batches", "replicas", "soak")
OPTIONAL = ("realmodel",)


def main(names: list[str]) -> int:
    """Run the named measurements one after the other."""
    unknown = [name for name in names if name not in ALL + OPTIONAL]
    if unknown:
        print(f"no such measurement: {', '.join(unknown)}; there are {', '.join(ALL + OPTIONAL)}", file=sys.stderr)
        return 2
    for name in names or ALL:
        importlib.import_module(f"bench.{name}").main()
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
