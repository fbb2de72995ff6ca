"""What all processes of a host hold, against what the governor says: with its children.

    python -m bench.memory_host [--model NAME]... [--one-billion]

Memory that only killing gives back, so anonymous and shared pages; twice for each model: after a
chat or completion that fills a context, and after an answer to a JSON schema besides. Prints a
table of said and measured.
"""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Annotated, Any

import httpx
import typer

from bench import traffic
from bench.constrained import constrained
from bench.memory_model import files
from bench.servers import Launch, running
from bench.squeeze import state_of
from rayhost.baseline import cpu
from rayhost.governor import costs as parts
from rayhost.governor.costs import MIB, Costs
from rayhost.governor.fit import Box, Wish, fit, price
from rayhost.governor.kernels import repacked
from rayhost.governor.readings import Kernel
from rayhost.models.gguf import read_info
from rayhost.models.shape import shape_of

ROOM = 1 << 40
SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 20}}}
HEAD = (
    "| model | after | front | worker | its children | together: said | measured | error |\n"
    "|---|---|---|---|---|---|---|---|"
)


def main(
    *,
    model: Annotated[list[str] | None, typer.Option(help="In the store, or a file.")] = None,
    one_billion: Annotated[bool, typer.Option(help="Random weights of 1.2 billion.")] = False,
) -> None:
    """Print the table, and the largest error."""
    worst = 0.0
    typer.echo(HEAD)
    with files(model or ["smollm2-135m", "gemma3-270m"], one_billion) as found:
        for name, path in found:
            for row, error in _rows(name, path):
                typer.echo(row)
                worst = max(worst, abs(error))
    typer.echo(f"\nLargest error: {worst:.1%}")


def _rows(name: str, path: Path) -> list[tuple[str, float]]:
    """Serve a model and measure it."""
    wish = Wish("measured", shape_of(read_info(path)))
    box = Box(ROOM, repacked(cpu.host().flags))
    (setting,) = fit([wish], box).settings
    rows = []
    with tempfile.TemporaryDirectory(prefix="rayhost-memory-") as temporary:
        folder = Path(temporary)
        with running(_launch(folder, path), folder / "log") as server:
            _fill(server.url, setting.context)
            for after, asked in (("prompts", False), ("a schema", True)):
                if asked:
                    _ask(server.url, "Who?", constrained(SCHEMA))
                said = price(replace(wish, constrained=asked), setting, box)
                worker = state_of(folder).models[0].pid
                rows.append(_row(f"| {name} | {after}", said, server.pid, worker))
    return rows


def _row(begin: str, said: Costs, front: int, worker: int | None) -> tuple[str, float]:
    kernel = Kernel()
    if worker is None:
        raise typer.Exit(1)
    groups = ([front], [worker], kernel.children(worker))
    measured = [sum(_held(kernel, pid) for pid in group) for group in groups]
    # Program files are in the front's figure, too: they are no more than what is measured there.
    foretold = [parts.FRONT - parts.FRONT_PROGRAM, said.anonymous - said.children, said.children]
    error = sum(foretold) / sum(measured) - 1
    each = " | ".join(f"{_mib(a)} / {_mib(b)}" for a, b in zip(foretold, measured, strict=True))
    return (
        f"{begin} | {each} | {_mib(sum(foretold))} | {_mib(sum(measured))} | {error:+.1%} |",
        error,
    )


def _held(kernel: Kernel, pid: int) -> int:
    held = kernel.process(pid)
    return held.anonymous + held.shared if held else 0


def _fill(url: str, context: int) -> None:
    """Have the largest steps computed. Cells are resident from the start, so one slot is enough."""
    _ask(url, traffic.prose(Random(0), context * 7 // 10), {})


def _ask(url: str, prompt: str, fields: dict[str, Any]) -> None:
    body = {"model": "measured", "prompt": prompt, "max_tokens": 8, "ignore_eos": not fields}
    answer = httpx.post(f"{url}/v1/completions", json={**body, **fields}, timeout=600)
    if answer.status_code != 200:
        raise typer.BadParameter(answer.text[:300])


def _launch(folder: Path, path: Path) -> Launch:
    served = {"name": "measured", "source": f"file:{path}", "snapshots": {"ram_mb": 0}}
    profile = folder / "profile.json"
    listen = {"admin_socket": "admin.sock"}
    profile.write_text(json.dumps({"models": [served], "listen": listen}))
    serve = ("serve", "--profile", str(profile), "--port", "0", "--log-format", "json")
    return Launch(
        name="rayhost",
        argv=("env", f"RAYHOST_HOME={folder}", sys.executable, "-m", "rayhost", *serve),
        ready=r"ready after .*?(http://[0-9.]+:\d+)",
        health="/ready",
    )


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f}"


if __name__ == "__main__":
    typer.run(main)
