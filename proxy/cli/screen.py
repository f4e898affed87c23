"""How the commands write: tables as wide as they need where nobody watches, texts of users never read as markup."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxy.settings import ConfigError, Mistake

_PIPED_WIDTH = 200


def console(*, stderr: bool = False) -> Console:
    """Return a console: as wide as the terminal, or wide enough for a table where the output is piped."""
    made = Console(stderr=stderr, highlight=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, width=_PIPED_WIDTH)


def line(text: str, *, stderr: bool = False, style: str = "") -> None:
    """Write one line as it is: neither wrapped nor read as markup."""
    console(stderr=stderr).print(Text(text, style=style), soft_wrap=True)


def table(title: str, *columns: str) -> Table:
    """Return an empty table."""
    made = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def row(into: Table, *cells: str) -> None:
    """Add a row of plain texts."""
    into.add_row(*(Text(cell) for cell in cells))


def mistakes(error: ConfigError, *, stderr: bool = True) -> None:
    """Write every mistake of a configuration, one a line."""
    count = len(error.mistakes)
    named = f"{error.source}: " if error.source else ""
    line(f"{named}{count} mistake{'s' if count != 1 else ''}", stderr=stderr, style="bold red")
    for mistake in error.mistakes:
        line(f"  {mistake}", stderr=stderr)


def warning(mistake: Mistake) -> None:
    """Write one warning."""
    line(f"warning: {mistake}", style="yellow")
