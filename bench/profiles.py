"""What the profiles for small boxes come to, each in a box of its size. Needs root and cgroup v1.

    python -m bench.profiles [NAME...]      such as 512mib-1core-chat; without names, all of them

A profile runs inside a memory control group of its size, whose OOM killer kills, on as many CPUs;
what a small system takes besides is taken off. Prints a table of what was measured. A model that
the profile wants as a file is one of random weights in the shape of Llama 3.2 1B.
"""

import json
import re
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Annotated

import typer

from bench import random_model, traffic
from bench.constrained import PERSON
from bench.embeddings import rate
from bench.load import Load, Plan
from bench.machine import CHECKOUT
from bench.measure import generate
from bench.memory_group import MemoryGroup, uncached
from bench.servers import Launch, Server, running
from bench.squeeze import PATIENCE_S, state_of, watching
from bench.stats import percentile
from bench.traffic import Call, Lane, Traffic
from rayhost.governor.costs import MIB
from rayhost.machine_share import system_part
from rayhost.models import catalog
from rayhost.models.store import Store, default_root
from rayhost.profile import load

FOLDER = CHECKOUT / "profiles"
SIZED = re.compile(r"(\d+)(mib|gib)-(\d+)core-(chat|extraction|embedding)")
HEAD = (
    "| profile | goal | model | context x sequences, batch | clients | a second | first token, p50 "
    "| answer, p50 | peak |\n|---|---|---|---|---|---|---|---|---|"
)
ROUNDS = 2  # of each client; a conversation is four calls
SECONDS = 8.0  # of embedding
WORDS = 12  # of a text to embed


def main(names: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Print a line for each profile and number of clients."""
    found = sorted(path for path in FOLDER.iterdir() if SIZED.match(path.stem))
    chosen = [path for path in found if not names or path.stem in names]
    typer.echo(HEAD)
    with tempfile.TemporaryDirectory(prefix="rayhost-profiles-") as temporary:
        for path in chosen:
            folder = Path(temporary, path.stem)
            folder.mkdir()
            for row in _rows(path, folder, Path(temporary)):
                typer.echo(row)


def _rows(path: Path, folder: Path, shared: Path) -> list[str]:
    """Run one profile; return its lines."""
    size, unit, cores, task = _box(path)
    memory = size * MIB * (1024 if unit == "gib" else 1)
    limit = memory - system_part(memory)
    profile = load(path)
    (model,) = profile.models
    rows = []
    with MemoryGroup(limit) as group:
        launch = _launch(path, folder, group, cores, shared)
        with running(launch, folder / "log") as server:
            one = state_of(folder).models[0]
            context = one.kv_cells // one.concurrency if one.kv_cells else model.context
            sizes = f"{context:,} x {one.concurrency}, {model.batch}"
            for clients in sorted({1, one.concurrency}):
                with watching(group) as samples:
                    figures = _figures(task, server, model.name, clients)
                peak = max(sample.working_set for sample in samples) // MIB
                cells = (path.stem, profile.goal, model.name, sizes, clients, *figures)
                rows.append("| " + " | ".join(map(str, cells)) + f" | {peak:,} MiB |")
        if group.kills:
            rows.append(f"| {path.stem}: killed {group.kills} times |")
    return rows


def _figures(task: str, server: Server, model: str, clients: int) -> tuple[str, str, str]:
    """Return what is done in a second, the time to the first token, and that of an answer."""
    if task == "embedding":
        found = rate(server.url, clients, 1, SECONDS, WORDS)
        return f"{found:,.0f} vectors", "", f"{clients / found * 1000:,.0f} ms"
    make = traffic.chat if task == "chat" else extraction
    sent = make(Random(f"{task} {clients}"), clients, ROUNDS)
    done = generate(Plan(server.url, model, sent, PATIENCE_S))
    failed = [f"{one.error} {one.detail}" for one in done.outcomes if one.error]
    if failed:
        raise typer.BadParameter(f"{len(failed)} failed: {failed[0]}")
    return _speeds(done, task)


def _speeds(done: Load, task: str) -> tuple[str, str, str]:
    tokens = sum(one.generated_tokens for one in done.outcomes) / done.wall_s
    answers = len(done.outcomes) / done.wall_s
    first = percentile([one.ttft_s for one in done.outcomes if one.ttft_s is not None], 0.5) or 0
    whole = percentile([one.latency_s for one in done.outcomes], 0.5) or 0
    each = f"{tokens:,.0f} tokens" + (f", {answers:.1f} answers" if task == "extraction" else "")
    return each, f"{first * 1000:,.0f} ms", f"{whole * 1000:,.0f} ms"


def extraction(random: Random, clients: int, rounds: int) -> Traffic:
    """Return four short texts a round for each client, to be told as JSON of a given schema."""
    named = {"name": "person", "schema": PERSON}
    wanted = json.dumps({"type": "json_schema", "json_schema": named})

    def call() -> Call:
        text = f"Who is it? {traffic.prose(random, 60)} Number {random.randrange(1_000_000)}."
        return Call(({"role": "user", "content": text},), 96, response_format=wanted)

    calls = traffic.TURNS * rounds
    return Traffic(tuple(Lane(tuple(call() for _ in range(calls))) for _ in range(clients)))


def _box(path: Path) -> tuple[int, str, int, str]:
    found = SIZED.match(path.stem)
    if found is None:
        raise ValueError(f"{path.stem}: its name tells no box")
    return int(found[1]), found[2], int(found[3]), found[4]


def _launch(path: Path, folder: Path, group: MemoryGroup, cores: int, shared: Path) -> Launch:
    """Return how the profile is served: as it is, but for where the model's file is."""
    written = json.loads(path.read_bytes())
    (model,) = written["models"]
    model["source"] = f"file:{uncached(_file(model, shared))}"
    written["listen"] = {"admin_socket": "admin.sock"}
    (folder / "profile.json").write_text(json.dumps(written))
    serve = ("serve", "--profile", str(folder / "profile.json"), "--port", "0")
    home = ("env", f"RAYHOST_HOME={folder}")
    cpus = ("taskset", "-c", ",".join(map(str, range(cores))))
    return Launch(
        name="rayhost",
        argv=(*group.prefix, *home, *cpus, sys.executable, "-m", "rayhost", *serve),
        ready=r"ready after .*?(http://[0-9.]+:\d+)",
        health="/ready",
    )


def _file(model: dict[str, str], shared: Path) -> Path:
    if model.get("source", "").startswith("file:"):
        path = shared / "random-1b.gguf"
        return path if path.exists() else random_model.write(path)
    entry = catalog.BY_NAME[model["name"]]
    return Store(default_root()).pull(entry.name, entry.source, entry.sha256).path


if __name__ == "__main__":
    typer.run(main)
