"""Writes what came of a run as the tables of docs/clients.md."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from tests.clients.clients import Client
from tests.clients.driving import Result
from tests.clients.environments import HERE
from tests.clients.matrix import COMPANIES, FORMS, IDENTICAL, Departure, Outcome, Place, Played

AT_ONCE_S = 1.0
REPOSITORY = HERE.parents[1]
DOCUMENT = REPOSITORY / "docs" / "clients.md"
_HEAD = """# What real clients get

Written by `make clients` from a run: each library in an environment of its own, with nothing changed but its base URL, against a
proxy in a process of its own before a simulated provider; `make test` runs the same and fails where this page says something else.

- **alone**: one call, answered by one call upstream. **merged**: three calls of one learner at once, answered by ONE call
  upstream; each caller must get its own lesson, parsed by the library itself into the fields that were asked for.
- **JSON** and **stream**: how the library was told to ask.
- In the failures the proxy repeats nothing itself (`num_retries: 0`), so that each library meets them all:
  `429`: the first call upstream is refused with `Retry-After: 1`. `500`: the first call of each body fails. `broken`: the
  connection breaks in the middle of the stream. `cut`: the stream ends in its middle as if it were whole. `timeout`: the first call
  upstream is never answered, and the library's own timeout runs out. `all leave`, `one leaves`: callers leave in the middle.
- **lesson**: every caller got its own whole lesson. A name in code: the error that the library raised; a cut lesson is never one.
"""
_FAILED = {"429": "`429`, `Retry-After`", "500": "`500`", "broken": "broken stream", "cut": "cut stream", "timeout": "timeout"}
_LESSON = "lesson"
_REPEATED = ("429", "500", "timeout")
_COLUMNS = "| alone, JSON | alone, stream | merged, JSON | merged, stream |"
_RULE = "|---|---|---|---|---|"


def document(played: Mapping[str, Played], clients: Mapping[str, Client]) -> str:
    """Return the whole page."""
    return "\n".join([_HEAD, *(section(client, played[name]) for name, client in clients.items())])


def section(client: Client, played: Played) -> str:
    """Return the page's part about one client."""
    ways = {place: way_cell(outcome) for place, outcome in played.ways.items()}
    failures = {place: failure_cell(place, outcome) for place, outcome in played.failures.items()}
    departures = {place: departure_cell(outcome) for place, outcome in played.departures.items()}
    packages = ", ".join(f"`{package}` {version}" for package, version in versions(client).items())
    lines = [
        f"## {client.name}\n",
        f"{packages}. [Setting it up](clients/{client.slug}.md).\n",
        f"| way {_COLUMNS}\n{_RULE}",
        *(_row(f"`{what}`" if what != IDENTICAL else what, what, ways) for what in _rows(ways)),
        f"\n| failure, met by `{client.usual}` {_COLUMNS}\n{_RULE}",
        *(_row(_FAILED[what], what, failures) for what in _rows(failures)),
        *(_row(what, what, departures) for what in _rows(departures)),
    ]
    return "\n".join(lines) + "\n"


def way_cell(outcome: Outcome) -> str:
    """Tell what a way brought, and how many calls upstream where that is not one."""
    calls = "" if outcome.upstream == 1 else f", {outcome.upstream} calls"
    return _results(outcome.results) + calls


def failure_cell(place: Place, outcome: Outcome) -> str:
    """Tell what a failure came to: whether the library repeated its call, or what it raised."""
    told = _results(outcome.results)
    return f"{told} by its retry" if told == _LESSON and place.what in _REPEATED else told


def departure_cell(departure: Departure) -> str:
    """Tell what became of those who stayed, or of the call upstream where nobody did."""
    if departure.stopped_after_s is None:
        return f"the others: {_results(departure.stayed)}"
    return "upstream stops" if departure.stopped_after_s <= AT_ONCE_S else "upstream goes on"


def versions(client: Client) -> dict[str, str]:
    """Return each package of a client with the version that its lock holds."""
    match client.environment:
        case "node":
            packages = json.loads((HERE / "node" / "package-lock.json").read_text())["packages"]
            return {name: packages[f"node_modules/{name}"]["version"] for name in client.packages}
        case "project":
            lock = (REPOSITORY / "requirements-dev.lock").read_text()
        case _:
            lock = (HERE / "python" / f"{client.environment}.lock").read_text()
    pinned = dict(re.findall(r"^([a-z0-9-]+)(?:\[[a-z,]+\])?==(\S+)", lock, re.MULTILINE))
    return {name: pinned[name] for name in client.packages}


def _results(results: Sequence[Result]) -> str:
    told = {_LESSON if result.error is None else f"`{result.error}`" for result in results}
    return ", ".join(sorted(told))


def _rows(cells: Mapping[Place, str]) -> list[str]:
    return list(dict.fromkeys(place.what for place in cells))


def _row(name: str, what: str, cells: Mapping[Place, str]) -> str:
    across = [cells.get(Place(what, company, form), "") for company in COMPANIES for form in FORMS]
    return f"| {name} | {' | '.join(across)} |"
