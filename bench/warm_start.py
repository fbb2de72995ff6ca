"""How long the first request after a restart waits, behind a long system prompt.

    python -m bench.warm_start [--pairs 5] [--words 530]

rayhost has the prompt in its profile's `preload` and keeps snapshots on disk; llama-server has
nothing like it and computes the prompt. The servers run in turn, started afresh for each figure.
"""

import asyncio
import json
import tempfile
from pathlib import Path
from random import Random
from typing import Annotated

import typer

from bench import machine, peer, servers
from bench.client import Client
from bench.compare import DEFAULT_MODEL, default_model, say
from bench.servers import Launch, Settings
from bench.stats import ratios, spread
from bench.traffic import Call, Lane, Message, prose

LIMIT_S = 120.0


def main(
    *,
    pairs: Annotated[int, typer.Option(min=1, help="Restarts of each server.")] = 5,
    words: Annotated[int, typer.Option(min=1, help="Of the system prompt.")] = 530,
) -> None:
    """Print the first token's time after a restart, and the prompt's length."""
    settings = Settings(
        model=str(default_model()),
        name=DEFAULT_MODEL,
        context=2048,
        slots=8,
        threads=machine.physical_cores(),
        kv_layout="split",
    )
    system = prose(Random("warm start"), words)
    with tempfile.TemporaryDirectory(prefix="rayhost-bench-") as temporary:
        folder = Path(temporary)
        ours = with_preload(servers.rayhost(settings, folder), folder, system)
        other = servers.llama_server(peer.llama_server("same", say).program, settings)
        first_token(ours, folder, system, "warm the disk")
        times: dict[str, list[float | None]] = {ours.name: [], other.name: []}
        for pair in range(pairs):
            for launch in (ours, other):
                milliseconds, tokens = first_token(launch, folder, system, f"Question {pair}?")
                times[launch.name].append(milliseconds)
                say(f"{launch.name:13} {milliseconds:7.1f} ms  {tokens} prompt tokens")
    for name, found in times.items():
        one = spread(found)
        if one:
            typer.echo(f"{name}: {one.median:.0f} ms ({one.low:.0f} to {one.high:.0f})")
    ratio = ratios(times[ours.name], times[other.name])
    if ratio:
        typer.echo(f"ratio: {ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})")


def with_preload(launch: Launch, folder: Path, system: str) -> Launch:
    """Put the system prompt into the profile that a launch uses; snapshots go into `folder`."""
    profile = folder / "profile.json"
    content = json.loads(profile.read_text())
    content["models"][0] |= {"preload": [system], "snapshots": {"disk_mb": 256}}
    profile.write_text(json.dumps(content))
    return launch


def first_token(launch: Launch, folder: Path, system: str, question: str) -> tuple[float, int]:
    """Start a server, ask one question, end it; return ms to the first token and prompt tokens."""
    messages: tuple[Message, ...] = (
        {"role": "system", "content": system},
        {"role": "user", "content": question},
    )
    with servers.running(launch, folder / f"{launch.name}.log") as server:
        client = Client(server.url, DEFAULT_MODEL, LIMIT_S)
        (outcome,) = asyncio.run(client.run((Lane((Call(messages, 8),)),)))
    if outcome.ttft_s is None:
        raise SystemExit(f"{launch.name} gave no text: {outcome.error} {outcome.detail}")
    return outcome.ttft_s * 1000, outcome.prompt_tokens


if __name__ == "__main__":
    typer.run(main)
