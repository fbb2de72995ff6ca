"""Two API keys that want more than there is: do their tokens divide as their weights do?

    python -m bench.fairness [--weight 3] [--clients 16] [--rounds 8]

Each key has as many clients, asking one question after the other. What is counted is what both had
been given when the first of them ran out of questions.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from bench import machine, traffic
from bench.compare import DEFAULT_MODEL, default_model
from bench.load import Plan
from bench.measure import PATIENCE_S, generate
from bench.servers import Settings, rayhost, running
from bench.traffic import Lane, Traffic


def main(
    *,
    weight: Annotated[float, typer.Option(min=1, help="Of the first key; the other has 1.")] = 3,
    clients: Annotated[int, typer.Option(min=1, help="Of each key.")] = 16,
    rounds: Annotated[int, typer.Option(min=2, help="Questions of each client.")] = 8,
) -> None:
    """Print the tokens of each key and their ratio."""
    settings = Settings(
        model=str(default_model()),
        name=DEFAULT_MODEL,
        context=2048,
        slots=8,
        threads=machine.physical_cores(),
        kv_layout="split",
    )
    with tempfile.TemporaryDirectory(prefix="rayhost-bench-") as temporary:
        folder = Path(temporary)
        launch = rayhost(settings, folder)
        keys = [new_key(folder, "heavy", weight), new_key(folder, "light", 1)]
        with running(launch, folder / "log") as server:
            asked = [_asked(key, clients, rounds) for key in keys]
            lanes = tuple(lane for one in asked for lane in one.lanes)
            load = generate(Plan(server.url, settings.name, Traffic(lanes), PATIENCE_S))
    failed = [one for one in load.outcomes if one.error]
    if failed:
        raise SystemExit(f"{len(failed)} calls failed, the first: {failed[0].error}")
    half = len(load.outcomes) // 2
    sides = load.outcomes[:half], load.outcomes[half:]
    until_s = min(max(one.start_s + one.latency_s for one in side) for side in sides)
    heavy, light = (
        sum(one.generated_tokens for one in side if one.start_s + one.latency_s <= until_s)
        for side in sides
    )
    typer.echo(
        f"weights {weight:g} to 1, {until_s:.0f} s: {heavy} and {light} tokens, "
        f"{heavy / light:.2f} to 1 ({heavy / light / weight - 1:+.1%})"
    )


def new_key(folder: Path, name: str, weight: float) -> str:
    """Add a key to a host's store and return its secret."""
    add = (sys.executable, "-m", "rayhost", "key", "add", name, "--weight", f"{weight:g}")
    told = subprocess.run(
        ("env", f"RAYHOST_HOME={folder}", *add),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return told.split()[-1]


def _asked(key: str, clients: int, rounds: int) -> Traffic:
    headers = (("Authorization", f"Bearer {key}"),)
    found = traffic.make("unique", clients, rounds, key)
    return Traffic(
        tuple(
            Lane(tuple(msgspec.structs.replace(call, headers=headers) for call in lane.calls))
            for lane in found.lanes
        )
    )


if __name__ == "__main__":
    typer.run(main)
