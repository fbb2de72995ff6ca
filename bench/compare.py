"""rayhost beside llama-server, the same traffic to each in turn: `python -m bench.compare --help`.

Writes `<date>-<cpu>.json`, everything measured, and `.md`, the tables of it. Exit status 3: the
load generator was the bottleneck, nothing is written; 1: a server or the peer's build failed.
"""

import shlex
import signal
import sys
import tempfile
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from bench import machine, peer, report, servers
from bench.bottleneck import Bottleneck, Limits
from bench.measure import Bench
from bench.peer import Peer, PeerFailed
from bench.report import Case, Overload, Result, Run, Side
from bench.servers import Launch, ServerFailed, Settings
from bench.traffic import KNOWN, WORKLOADS
from rayhost.errors import RayhostError
from rayhost.models import catalog
from rayhost.models.store import Store, default_root

RESULTS = machine.CHECKOUT / "bench" / "results"
DEFAULT_MODEL = "smollm2-135m"
CLIENTS = (1, 4, 8, 16)

# Five minutes on two cores.
SELECTION = (
    Case("unique", 1),
    Case("unique", 8),
    Case("unique", 16),
    Case("shared-prefix-warm", 8),
    Case("repeat", 8),
)


class Kind(StrEnum):
    """Who the peer is."""

    LLAMA_SERVER = "llama-server"
    XLLAMACPP = "xllamacpp"


class Flags(StrEnum):
    """What the peer is compiled with."""

    SAME = "same"
    STOCK = "stock"


class Flash(StrEnum):
    """Whether the peer computes attention in one kernel."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class Layout(StrEnum):
    """How both hold the KV cache."""

    SPLIT = "split"
    UNIFIED = "unified"


def say(text: str) -> None:
    """Show a line; standard output is for the table."""
    typer.echo(text, err=True)


def chosen(workloads: list[str], clients: list[int], everything: bool) -> list[Case]:
    """Return the cases to run: the selection, unless something else is asked for."""
    if not (workloads or clients or everything):
        return list(SELECTION)
    return [Case(name, count) for name in workloads or WORKLOADS for count in clients or CLIENTS]


def rounds_of(case: Case) -> int:
    """Return the calls (or conversations) of each client: sixteen in all, for one client six.

    Of answers that are known four times as many, since they take no time.
    """
    if case.workload in KNOWN:
        return max(4, 64 // case.clients)
    return 1 if case.workload == "chat" else max(1, min(6, 16 // case.clients))


def main(
    *,
    workload: Annotated[
        list[str] | None,
        typer.Option(help=f"Run this; may be repeated. One of: {', '.join(WORKLOADS)}."),
    ] = None,
    clients: Annotated[
        list[int] | None, typer.Option(min=1, max=256, help="At this many; may be repeated.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every workload at 1, 4, 8 and 16 clients: over an hour.")
    ] = False,
    pairs: Annotated[
        int, typer.Option(min=1, help="Runs of each server; 3 at least, to tell.")
    ] = 3,
    rounds: Annotated[
        int, typer.Option(min=0, help="Calls of each client; 0: as the workload needs.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Another seed is other text.")] = 1,
    model: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help=f"A GGUF file; else {DEFAULT_MODEL}."),
    ] = None,
    context: Annotated[int, typer.Option(min=64, help="Tokens of one slot.")] = 2048,
    slots: Annotated[int, typer.Option(min=1, max=64, help="Sequences decoded together.")] = 8,
    threads: Annotated[int, typer.Option(min=0, help="0: one for each physical core.")] = 0,
    kv_layout: Annotated[Layout, typer.Option(help="How both hold the KV cache.")] = Layout.SPLIT,
    kind: Annotated[
        Kind, typer.Option("--peer", help="xllamacpp: a wheel, where nobody wants to compile.")
    ] = Kind.LLAMA_SERVER,
    peer_flags: Annotated[
        Flags, typer.Option(help="same: CMAKE_ARGS, CFLAGS and CXXFLAGS of here; stock: none.")
    ] = Flags.SAME,
    peer_flash: Annotated[
        Flash, typer.Option(help="llama-server's flash attention; auto, its default, is on.")
    ] = Flash.AUTO,
    results: Annotated[Path, typer.Option(help="Where the two files go.")] = RESULTS,
    logs: Annotated[
        Path | None, typer.Option(help="Keep here what the servers print; else nowhere.")
    ] = None,
) -> None:
    """Compare rayhost with llama-server: alternating runs of the same traffic, median ratios.

    Without --workload, --clients or --all: a selection that takes about five minutes.
    """
    for name in workload or ():
        if name not in WORKLOADS:
            known = ", ".join(WORKLOADS)
            raise typer.BadParameter(f"{name!r} is none of {known}", param_hint="--workload")
    surroundings = machine.read()  # before anything here makes load
    with tempfile.TemporaryDirectory(prefix="rayhost-bench-") as temporary:
        folder = logs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        results.mkdir(parents=True, exist_ok=True)  # not found out after minutes of measuring
        try:
            other = peer.llama_server(peer_flags, say) if kind == Kind.LLAMA_SERVER else None
            other = other or peer.xllamacpp(say)
            settings = Settings(
                model=str(model.resolve() if model else default_model()),
                name=model.stem.lower() if model else DEFAULT_MODEL,
                context=context,
                slots=slots,
                threads=threads or machine.physical_cores(),
                kv_layout=kv_layout,
                peer_flash=peer_flash,
            )
            launches = (servers.rayhost(settings, folder), launch(other, settings))
            runs: list[Run] = []
            overloads: list[Overload] = []
            bench = Bench(launches, settings.name, folder, Limits(), say)
            for case in chosen(workload or [], clients or [], everything):
                each = rounds or rounds_of(case)
                found, overload = bench.compare(case, range(1, pairs + 1), seed, each)
                runs += found
                overloads += [overload] if overload else []
        except Bottleneck as error:
            say(f"bench: refusing to report: {error}")
            raise typer.Exit(3) from None
        except (PeerFailed, ServerFailed, RayhostError) as error:
            say(f"bench: {error}")
            raise typer.Exit(1) from None
    ours = Side("rayhost", "this checkout", peer.own_system_info(), launches[0].argv)
    result = Result(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=machine.commit(),
        command=shlex.join(["python", "-m", "bench.compare", *sys.argv[1:]]),
        machine=surroundings,
        settings=settings,
        seed=seed,
        pairs=pairs,
        sides=(ours, Side(other.kind, other.built, other.system_info, launches[1].argv)),
        runs=tuple(runs),
        overloads=tuple(overloads),
    )
    write(result, results, part="-".join(dict.fromkeys(workload or ())))


def default_model() -> Path:
    """Return the default model's file, pulled if it must be."""
    entry = catalog.BY_NAME[DEFAULT_MODEL]
    return Store(default_root()).pull(entry.name, entry.source, entry.sha256).path


def launch(other: Peer, settings: Settings) -> Launch:
    """Return how the peer is started."""
    start = servers.llama_server if other.kind == Kind.LLAMA_SERVER else servers.xllamacpp
    return start(other.program, settings)


def portable(text: str) -> str:
    """Return a report without what is peculiar to where this machine keeps things."""
    return text.replace(sys.executable, "python").replace(str(Path.home()), "~")


def write(result: Result, folder: Path, part: str) -> None:
    """Write both files and show the table. `part` names the workloads, where they were chosen."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{result.date[:10]}-{machine.slug(result.machine.cpu)}"
    stem = folder / (f"{name}-{part}" if part else name)
    text = portable(report.markdown(result))
    document = portable(msgspec.json.format(msgspec.json.encode(result), indent=1).decode())
    stem.with_name(f"{stem.name}.json").write_text(document + "\n")
    stem.with_name(f"{stem.name}.md").write_text(text)
    typer.echo(text)
    say(f"bench: wrote {stem}.json and .md")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the server
    typer.run(main)
