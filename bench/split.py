"""Are a front and a worker better off on CPUs of their own? `cpus` of the profile, way by way.

    python -m bench.split [--rounds 3] [--pairs 3]

Ways take turns, each in a host of its own; medians over the pairs are printed. The clients run on
the same machine, on any CPU.
"""

import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from bench import traffic
from bench.compare import DEFAULT_MODEL, default_model
from bench.load import Plan
from bench.measure import PATIENCE_S, generate
from bench.servers import Settings, rayhost, running
from bench.stats import Figures, Memory, figures, spread

CLIENTS = (1, 8)
SHOWN = ("tokens_per_s", "ttft_p50_ms", "ttft_p99_ms", "gap_p50_ms", "gap_p99_ms")


def ways(cpus: list[int]) -> Mapping[str, Mapping[str, list[int]]]:
    """Return the ways by name: sections `cpus` of a profile."""
    first, *others = cpus
    if not others:
        raise typer.BadParameter("there is nothing to split on one CPU")
    return {
        "shared": {},
        "front on the first CPU, worker on all": {"front": [first], "workers": cpus},
        "front on the first CPU, worker on the others": {"front": [first], "workers": others},
    }


def main(
    *,
    rounds: Annotated[int, typer.Option(min=1, help="Questions of each client.")] = 3,
    pairs: Annotated[int, typer.Option(min=1, help="Times each way has its turn.")] = 3,
) -> None:
    """Print a line for each way and number of clients."""
    ran: dict[tuple[str, int], list[Figures]] = defaultdict(list)
    for pair in range(pairs):
        for name, cpus in ways(sorted(os.sched_getaffinity(0))).items():
            for clients, found in _served(cpus, rounds, f"{pair}").items():
                ran[name, clients].append(found)
    for (name, clients), runs in sorted(ran.items(), key=lambda one: one[0][1]):
        medians = {one: spread([getattr(run, one) for run in runs]) for one in SHOWN}
        told = ", ".join(f"{one} {value.median:.1f}" for one, value in medians.items() if value)
        failed = sum(run.failed for run in runs)
        typer.echo(f"{clients} clients, {name}: {told}, {failed} failed")


def _served(cpus: Mapping[str, list[int]], rounds: int, seed: str) -> dict[int, Figures]:
    settings = Settings(
        model=str(default_model()),
        name=DEFAULT_MODEL,
        context=2048,
        slots=max(CLIENTS),
        threads=0,
        kv_layout="split",
    )
    with tempfile.TemporaryDirectory(prefix="rayhost-bench-") as temporary:
        folder = Path(temporary)
        launch = rayhost(settings, folder)
        profile = json.loads((folder / "profile.json").read_text())
        profile["models"][0]["threads"] = "auto"  # as many as the way has cores
        profile["cpus"] = cpus
        (folder / "profile.json").write_text(json.dumps(profile))
        with running(launch, folder / "log") as server:
            return {
                clients: figures(
                    generate(
                        Plan(
                            server.url,
                            DEFAULT_MODEL,
                            traffic.make("unique", clients, rounds, f"{seed} {clients}"),
                            PATIENCE_S,
                        )
                    ),
                    Memory(0, 0),
                )
                for clients in CLIENTS
            }


if __name__ == "__main__":
    typer.run(main)
