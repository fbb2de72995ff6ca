"""What the host chooses by itself, beside each choice an operator could make.

    python -m bench.auto sequences [--clients 16]   how many sequences, with the whole box free
    python -m bench.auto threads [--cores 0.5]      how many threads under a CPU quota (root)

Alternating runs of the same traffic, each with a fresh host; a line for each choice with the
ratio of generated tokens a second to those of "auto" in the same turn: median, least and most.
"""

import contextlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from bench import machine, traffic
from bench.compare import DEFAULT_MODEL, default_model
from bench.control_group import CpuGroup
from bench.load import Plan
from bench.measure import generate
from bench.servers import Launch, ServerFailed, running
from bench.traffic import Traffic

PATIENCE_S = 600.0

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def sequences(
    *,
    clients: Annotated[int, typer.Option(min=1)] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="Calls of each client in a run.")] = 3,
    turns: Annotated[int, typer.Option(min=1, help="Runs of each choice.")] = 3,
    fixed: Annotated[str, typer.Option(help="Numbers of sequences to try.")] = "4,8,12,16",
) -> None:
    """Compare the sequences that the host takes with fixed numbers of them."""
    choices: dict[str, dict[str, Any]] = {"auto": {}}
    choices |= {number: {"concurrency": int(number)} for number in fixed.split(",")}
    _compare("sequences", choices, (), ("unique", clients, rounds), turns)


@app.command()
def threads(
    *,
    cores: Annotated[float, typer.Option(min=0.1, help="The quota.")] = 0.5,
    clients: Annotated[int, typer.Option(min=1)] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Calls of each client in a run.")] = 2,
    turns: Annotated[int, typer.Option(min=1, help="Runs of each choice.")] = 3,
) -> None:
    """Compare the threads that the host takes under a quota with every number of them."""
    choices: dict[str, dict[str, Any]] = {"auto": {}}
    choices |= {str(n): {"threads": n} for n in range(1, machine.physical_cores() + 1)}
    with CpuGroup(cores) as group:
        _compare("threads", choices, group.prefix, ("unique", clients, rounds), turns)


def _compare(
    what: str,
    choices: Mapping[str, Mapping[str, Any]],
    prefix: Sequence[str],
    asked: tuple[str, int, int],
    turns: int,
) -> None:
    workload, clients, rounds = asked
    speeds: dict[str, list[float]] = {name: [] for name in choices}
    for turn in range(turns):
        sent = traffic.make(workload, clients, rounds, f"auto {turn}")
        for name, settings in choices.items():
            speeds[name].append(_tokens_per_s(settings, prefix, sent))
    typer.echo(f"| {what} | tokens/s | of auto | least | most |")
    typer.echo("| --- | --- | --- | --- | --- |")
    for name, found in speeds.items():
        of_auto = [one / auto for one, auto in zip(found, speeds["auto"], strict=True)]
        typer.echo(
            f"| {name} | {median(found):.1f} | {median(of_auto):.2f} | {min(of_auto):.2f} | "
            f"{max(of_auto):.2f} |"
        )


def _tokens_per_s(settings: Mapping[str, Any], prefix: Sequence[str], sent: Traffic) -> float:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rayhost-auto-")))
        launch = _launch(settings, prefix, folder)
        server = stack.enter_context(running(launch, folder / "rayhost.log"))
        load = generate(Plan(server.url, DEFAULT_MODEL, sent, PATIENCE_S))
    if wrong := [one.error for one in load.outcomes if one.error]:
        raise ServerFailed(f"{len(wrong)} calls failed, the first with {wrong[0]}")
    return sum(one.generated_tokens for one in load.outcomes) / load.wall_s


def _launch(settings: Mapping[str, Any], prefix: Sequence[str], folder: Path) -> Launch:
    """Return how a host is started that chooses everything but `settings`."""
    profile = folder / "profile.json"
    model = {"name": DEFAULT_MODEL, "source": f"file:{default_model()}", **settings}
    profile.write_text(json.dumps({"models": [model]}))
    serve = ("serve", "--profile", str(profile), "--port", "0", "--log-format", "json")
    home = ("env", f"RAYHOST_HOME={folder}")
    return Launch(
        name="rayhost",
        argv=(*prefix, *home, sys.executable, "-m", "rayhost", *serve),
        ready=r"ready after .*?(http://[0-9.]+:\d+)",
        health="/ready",
    )


if __name__ == "__main__":
    app()
