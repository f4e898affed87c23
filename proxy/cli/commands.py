"""The command line as typer sees it: names, options, help; what a command does stands in its own module."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="lesson-proxy",
    help="Merges calls that ask an LLM for one lesson each into one call upstream, and gives every caller its own answer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_CONFIG_HELP = "The configuration (YAML). Without it: the embedded default with its simulated provider, which needs no key."
ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", metavar="FILE", help=_CONFIG_HELP)]
PortOption = Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="0: any that is free.")]
UpstreamOption = Annotated[
    str | None, typer.Option(metavar="URL", help="Every model name goes to this OpenAI-compatible address with the caller's own key.")
]
AllowOpenOption = Annotated[
    bool, typer.Option("--allow-open", help="Listen beyond this machine though anyone there may then spend your keys.")
]
HostOption = Annotated[str, typer.Option("--host", help="The address to listen on.")]


@app.command()
def serve(
    *,
    config: ConfigOption = None,
    upstream: UpstreamOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 4000,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes; several share their windows through `redis.url`.")] = 1,
    allow_open: AllowOpenOption = False,
) -> None:
    """Run the proxy."""
    from proxy.cli.serving import Start, run  # noqa: PLC0415 - see the package's docstring

    raise typer.Exit(run(Start(config, upstream, host, port, workers, allow_open)))


@app.command(hidden=True)
def worker(
    post: str,
    *,
    config: ConfigOption = None,
    upstream: UpstreamOption = None,
    host: HostOption = "127.0.0.1",
    workers: int = 1,
    allow_open: AllowOpenOption = False,
) -> None:
    """Run one of the workers of `serve --workers`, which alone starts these."""
    from proxy.cli.serving import Start, run_worker  # noqa: PLC0415

    raise typer.Exit(run_worker(Start(config, upstream, host, 0, workers, allow_open), post))


@app.command()
def demo() -> None:
    """Start the proxy with a simulated provider, send it real HTTP traffic, and print what merging saved."""
    from proxy.cli.demo import run  # noqa: PLC0415

    raise typer.Exit(run())


@app.command()
def check(config: ConfigOption = None) -> None:
    """Validate a configuration; print its routes and rules as they will apply, and what is dangerous in it."""
    from proxy.cli.checking import run  # noqa: PLC0415

    raise typer.Exit(run(config))


@app.command()
def explain(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help='Request bodies, or {"path", "headers", "body"}; `-`: standard input.')
    ],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    merged: Annotated[bool, typer.Option("--merged", help="Print the upstream body that these files would become together.")] = False,
    config: ConfigOption = None,
) -> None:
    """Tell of recorded requests whether they would be merged, and why not."""
    from proxy.cli.explaining import run  # noqa: PLC0415

    raise typer.Exit(run(files, config, as_json=as_json, merged=merged))


@app.command()
def simulate(
    *,
    host: HostOption = "127.0.0.1",
    port: PortOption = 4010,
    tokens_per_second: Annotated[
        float | None, typer.Option(min=0.1, help="Speed of writing; without it as fast as the machine can.")
    ] = None,
    first_token_ms: Annotated[float, typer.Option(min=0, help="Milliseconds before the first token.")] = 0,
    seed: Annotated[int, typer.Option(help="Equal seeds and requests give equal answers.")] = 0,
    dialect: Annotated[
        str, typer.Option(help="The provider that models are answered like whose names begin with none (`groq+any`); `list` tells them.")
    ] = "plain",
) -> None:
    """Serve the simulated provider alone: OpenAI-compatible, with timing, faults by the model's name (`any+429`), and dialects."""
    from proxy.cli.simulating import Simulation, run  # noqa: PLC0415

    raise typer.Exit(run(Simulation(host, port, tokens_per_second, first_token_ms, seed, dialect)))


@app.command()
def estimate(
    log: Annotated[
        str,
        typer.Argument(
            metavar="LOG.jsonl",
            help='Past calls, one JSON object a line: `time` (seconds or ISO 8601) and `request`, a body or {"path", "headers", "body"}.',
        ),
    ],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object in place of the table.")] = False,
    max_wait_ms: Annotated[
        list[int] | None, typer.Option(min=0, max=60_000, help="A window's length; may be given several times.  [default: 25 to 1000]")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Tell what merging would have saved on a log of past calls (`-`: standard input), over several windows; nothing is sent."""
    from proxy.cli.estimate.show import WAITS_MS, Asked, run  # noqa: PLC0415

    raise typer.Exit(run(Asked(log, config, max_wait_ms or WAITS_MS, as_json)))


def main() -> None:
    """Run the command that the arguments name."""
    app()
