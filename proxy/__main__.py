"""`python -m proxy`: the same as the console script."""

from proxy.cli import main

main()
