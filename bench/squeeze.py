"""A host in a box too small for it: who is killed, and who makes do. Needs root and cgroup v1.

    python -m bench.squeeze limit [--requests 40]     768 MiB, 8 clients, prompts of 1,500 tokens
    python -m bench.squeeze antagonist [--plot FILE]  another takes 300 MiB for 20 s, under load
    python -m bench.squeeze idle [--structured]       512 MiB and one CPU: where each MiB is

Each server runs inside a memory control group whose OOM killer really kills. llama-server is
started again whenever it dies, as systemd would.
"""

import json
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import httpx
import msgspec
import typer

from bench import machine, peer, traffic
from bench.compare import DEFAULT_MODEL, default_model, say
from bench.load import Load, Plan
from bench.machine import CHECKOUT
from bench.measure import generate
from bench.memory_group import MemoryGroup, uncached
from bench.servers import Launch, Server, Settings, llama_flags, running
from bench.timeline import Sample, plot
from rayhost import admin_socket
from rayhost.front.state import HostState
from rayhost.governor.costs import MIB
from rayhost.governor.readings import Kernel, Process

PATIENCE_S = 900.0
SAMPLE_S = 0.05
CLIENTS = 8
# Told to end, it ends what it started; else it starts it again, whatever it died of.
_RESTARTING = 'trap "trap - TERM; kill 0" TERM; while :; do "$@" & wait $!; done'

app = typer.Typer(add_completion=False, help=__doc__)


class Row(msgspec.Struct, frozen=True):
    """What one server came to."""

    server: str
    answered: int
    failed: int
    kills: int  # by the kernel
    peak: int  # working set, bytes
    wall_s: float


@app.command()
def limit(
    requests: Annotated[int, typer.Option(min=CLIENTS, help="In all.")] = 40,
    mib: Annotated[int, typer.Option(min=256, help="Of memory.")] = 768,
    only: Annotated[str, typer.Option(help="rayhost or llama-server; without it, both.")] = "",
    model: Annotated[
        Path | None, typer.Option(help="A GGUF file of SmolLM2-135M, say a faster one.")
    ] = None,
) -> None:
    """Print a line for each server: prompts of 1,500 tokens in a box of 768 MiB."""
    sent = traffic.make("long", CLIENTS, requests // CLIENTS, f"squeeze {requests}")
    typer.echo("| server | answered | failed | killed | peak working set | seconds |")
    typer.echo("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="rayhost-squeeze-") as temporary:
        folder = Path(temporary)
        for make in [one for name, one in _SERVERS.items() if only in ("", name)]:
            with MemoryGroup(mib * MIB) as group:
                launch = make(folder, group, model or default_model())
                with (
                    running(launch, folder / f"{launch.name}.log") as server,
                    watching(group) as samples,
                ):
                    load = _send(server, sent)
                row = _row(launch.name, load, group.kills, samples)
            typer.echo(
                f"| {row.server} | {row.answered} | {row.failed} | {row.kills} | "
                f"{row.peak / MIB:.0f} of {mib} MiB | {row.wall_s:.0f} |"
            )


@app.command()
def antagonist(
    *,
    mib: Annotated[int, typer.Option(min=256, help="Of memory.")] = 768,
    takes: Annotated[int, typer.Option(min=1, help="MiB that the other takes.")] = 300,
    seconds: Annotated[float, typer.Option(min=1, help="For how long.")] = 20.0,
    ramp: Annotated[float, typer.Option(min=0, help="Seconds in which it takes them.")] = 3.0,
    rounds: Annotated[int, typer.Option(min=1, help="Requests of each of 8 clients.")] = 30,
    plotted: Annotated[Path | None, typer.Option("--plot", help="An SVG file to write.")] = None,
) -> None:
    """Have another process take memory and give it back, under load; tell what happened when."""
    sent = traffic.make("unique", CLIENTS, rounds, "antagonist")
    with (
        tempfile.TemporaryDirectory(prefix="rayhost-squeeze-") as temporary,
        MemoryGroup(mib * MIB) as group,
    ):
        folder = Path(temporary)
        launch = _rayhost(folder, group, default_model())
        with running(launch, folder / "rayhost.log") as server:
            begin = state_of(folder).models[0].concurrency
            with watching(group, lambda: state_of(folder)) as samples:
                squeezing = threading.Thread(
                    target=_squeeze, args=(group, takes, seconds, ramp, 10.0)
                )
                squeezing.start()
                load = _send(server, sent)
                squeezing.join()
                _wait_for(lambda: state_of(folder).models[0].concurrency >= begin)
            row = _row("rayhost", load, group.kills, samples)
    widths = [sample.sequences for sample in samples]
    typer.echo(
        f"{row.answered} answered, {row.failed} failed, {row.kills} killed; sequences {begin}, "
        f"at least {min(widths)}, at the end {widths[-1]}; peak working set "
        f"{row.peak / MIB:.0f} of {mib} MiB"
    )
    if plotted is not None:
        plotted.write_text(plot(samples, mib))


@app.command()
def idle(
    mib: Annotated[int, typer.Option(min=256, help="Of memory.")] = 512,
    cpu: Annotated[int, typer.Option(min=0, help="The CPU.")] = 0,
    structured: Annotated[
        bool, typer.Option("--structured", help="Ask for an answer that follows a schema first.")
    ] = False,
) -> None:
    """Print where each MiB is of a host that has answered and has nothing to do."""
    sent = traffic.make("long", 2, 2, "idle")
    with (
        tempfile.TemporaryDirectory(prefix="rayhost-squeeze-") as temporary,
        MemoryGroup(mib * MIB) as group,
    ):
        folder = Path(temporary)
        launch = _rayhost(folder, group, default_model())
        pinned = msgspec.structs.replace(launch, argv=("taskset", "-c", str(cpu), *launch.argv))
        with running(pinned, folder / "rayhost.log") as server:
            _send(server, sent)
            if structured:
                _ask_structured(server)
            state = state_of(folder)
            typer.echo("| process | anonymous | shared | file pages | resident |")
            typer.echo("| --- | --- | --- | --- | --- |")
            total = 0
            for name, held in _processes(_serving(server.pid), state.models[0].pid):
                total += held.anonymous + held.shared
                files = held.resident - held.anonymous - held.shared
                sizes = (held.anonymous, held.shared, files, held.resident)
                typer.echo(f"| {name} | " + " | ".join(f"{one / MIB:.0f}" for one in sizes) + " |")
            one = state.models[0]
            context = one.kv_cells // one.concurrency
            typer.echo(
                f"\nanonymous and shared together: {total / MIB:.0f} MiB; "
                f"{one.concurrency} sequences of {context} tokens"
            )


@contextmanager
def watching(
    group: MemoryGroup, state: Callable[[], HostState] | None = None
) -> Iterator[list[Sample]]:
    """Sample a group, and a host where there is one, until the block ends."""
    samples: list[Sample] = []
    over = threading.Event()
    began = time.monotonic()

    def watch() -> None:
        while not over.wait(SAMPLE_S):
            now = state() if state else None
            samples.append(
                Sample(
                    at_s=time.monotonic() - began,
                    working_set=group.working_set,
                    ours=now.memory.ours_bytes if now else 0,
                    sequences=now.models[0].concurrency if now else 0,
                    level=now.memory.level if now else 0,
                )
            )

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def profile_of(folder: Path, model: Path, **governor: float) -> Path:
    """Write a profile that leaves every size to the host; its admin socket is beside it."""
    path = folder / "profile.json"
    served = {"name": DEFAULT_MODEL, "source": f"file:{model}"}
    rest = {"listen": {"admin_socket": "admin.sock"}, "governor": governor}
    path.write_text(json.dumps({"models": [served], **rest}))
    return path


def state_of(folder: Path) -> HostState:
    """Return the state of the host whose profile is in a folder."""
    status, body = admin_socket.ask(folder / "admin.sock", "GET", "/admin/state")
    if status != 200:
        raise ConnectionError(f"the host answered with status {status}")
    return msgspec.json.decode(body, type=HostState)


def take(group: MemoryGroup, mib: int, seconds: float, ramp_s: float) -> None:
    """Take memory in a group, hold it and give it back. Raises CalledProcessError if killed."""
    program = (sys.executable, "-m", "bench.antagonist", str(mib), str(seconds), str(ramp_s))
    subprocess.run([*group.prefix, *program], check=True, cwd=CHECKOUT, stdout=subprocess.DEVNULL)


def _squeeze(group: MemoryGroup, mib: int, seconds: float, ramp_s: float, after_s: float) -> None:
    time.sleep(after_s)
    take(group, mib, seconds, ramp_s)


def _send(server: Server, sent: traffic.Traffic) -> Load:
    return generate(Plan(server.url, DEFAULT_MODEL, sent, PATIENCE_S))


def _row(name: str, load: Load, kills: int, samples: list[Sample]) -> Row:
    failed = sum(bool(one.error) for one in load.outcomes)
    peak = max((sample.working_set for sample in samples), default=0)
    return Row(name, len(load.outcomes) - failed, failed, kills, peak, load.wall_s)


def _rayhost(folder: Path, group: MemoryGroup, model: Path) -> Launch:
    profile = profile_of(folder, uncached(model))
    serve = ("serve", "--profile", str(profile), "--port", "0", "--log-format", "json")
    home = ("env", f"RAYHOST_HOME={folder}")
    return Launch(
        name="rayhost",
        argv=(*group.prefix, *home, sys.executable, "-m", "rayhost", *serve),
        ready=r"ready after .*?(http://[0-9.]+:\d+)",
        health="/ready",
    )


def _llama_server(_folder: Path, group: MemoryGroup, model: Path) -> Launch:
    other = peer.llama_server("same", say)
    settings = Settings(
        model=str(uncached(model)),
        name=DEFAULT_MODEL,
        context=2048,
        slots=CLIENTS,
        threads=machine.physical_cores(),
        kv_layout="split",
    )
    with socket.socket() as free:  # the same port after each death
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    flags = list(llama_flags(settings))
    flags[flags.index("--port") + 1] = port
    restarting = ("sh", "-c", _RESTARTING, "sh")
    return Launch(
        name="llama-server",
        argv=(*group.prefix, *restarting, str(other.program), *flags),
        ready=r"listening on (http://[0-9.]+:\d+)",
        health="/health",
    )


_CHILDREN = {
    "rayhost/engine/renderer.py": "renderer of chat templates",
    "rayhost.engine.grammar_check": "reader of schemas",
}
_SERVERS = {"rayhost": _rayhost, "llama-server": _llama_server}


def _ask_structured(server: Server) -> None:
    body = {
        "model": DEFAULT_MODEL,
        "messages": [{"role": "user", "content": "Name a colour."}],
        "max_tokens": 32,
        "response_format": {"type": "json_object"},
    }
    url = f"{server.url}/v1/chat/completions"
    httpx.post(url, json=body, timeout=PATIENCE_S).raise_for_status()


def _processes(front: int, worker: int | None) -> Iterator[tuple[str, Process]]:
    """Yield front, worker and what the worker started, each with what it holds."""
    kernel = Kernel()
    if worker is None:
        raise typer.Exit(1)
    children = [(_name_of(child), child) for child in kernel.children(worker)]
    for name, pid in (("front", front), ("worker", worker), *sorted(children)):
        held = kernel.process(pid)
        if held is not None:
            yield name, held
        elif pid in (front, worker):
            raise typer.Exit(1)


def _name_of(child: int) -> str:
    """Return what a worker's child is for, or its program."""
    try:
        command = Path(f"/proc/{child}/cmdline").read_text()
    except OSError:
        return "gone"
    found = (name for program, name in _CHILDREN.items() if program in command)
    return next(found, command.partition("\0")[0])


def _serving(first: int) -> int:
    """Return the process of the front: what was started executes it, so it is that or its child."""
    command = Path(f"/proc/{first}/cmdline").read_bytes()
    if re.search(rb"rayhost\0serve", command):
        return first
    children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    return _serving(int(children[0]))


def _wait_for(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError("the host did not grow back")
        time.sleep(SAMPLE_S)


if __name__ == "__main__":
    app()
