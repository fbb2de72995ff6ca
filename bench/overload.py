"""Four times what a host can carry, with deadlines: what is answered in time, and how calm it is.

    python -m bench.overload [--seconds 60] [--pairs 1] [--clients 8]

For rayhost and llama-server in turn: what `clients` that wait their turn get answered (capacity),
how soon a lone client gets its first token (idle), then calls of low priority that come at four
times rayhost's capacity and hang up after 10 s, beside one of high priority every two seconds.
llama-server knows neither deadlines nor priorities; its clients hang up all the same.
"""

import tempfile
from pathlib import Path
from random import Random
from typing import Annotated

import msgspec
import typer

from bench import machine, peer, traffic
from bench.client import Outcome
from bench.compare import DEFAULT_MODEL, default_model, say
from bench.load import Plan
from bench.measure import generate
from bench.servers import Launch, Settings, llama_server, rayhost, running
from bench.stats import percentile
from bench.traffic import Call, Lane, Traffic

DEADLINE_S = 10.0
PROBE_EVERY_S = 2.0
FACTOR = 4
PATIENCE_S = 300.0
PROBES = 20

_LOW = (("X-Rayhost-Priority", "low"), ("X-Rayhost-Timeout-Ms", f"{DEADLINE_S * 1000:.0f}"))
_HIGH = (("X-Rayhost-Priority", "high"),)


class Row(msgspec.Struct, frozen=True):
    """What one server came to. Rates a second, times in milliseconds."""

    server: str
    capacity: float  # answers without overload
    idle_p99_ms: float | None  # time to first token of a lone client
    goodput: float  # answers within their deadline, once the queue has filled
    refused: int
    silent: int  # refusals that do not say when to come back
    late: int  # hung up on
    other: dict[str, int]  # what else went wrong
    high_p99_ms: float | None  # time to first token of high priority during the overload
    high_failed: int


def main(
    *,
    seconds: Annotated[float, typer.Option(min=20, help="Length of the overload.")] = 60,
    clients: Annotated[int, typer.Option(min=1, help="That wait their turn, for capacity.")] = 8,
    pairs: Annotated[int, typer.Option(min=1, help="Runs of each server.")] = 1,
    seed: Annotated[int, typer.Option(help="Another seed is other text.")] = 1,
) -> None:
    """Print a line for each server and run."""
    other = peer.llama_server("same", say)
    settings = Settings(
        model=str(default_model()),
        name=DEFAULT_MODEL,
        context=2048,
        slots=8,
        threads=machine.physical_cores(),
        kv_layout="split",
    )
    typer.echo(HEAD)
    with tempfile.TemporaryDirectory(prefix="rayhost-bench-") as temporary:
        folder = Path(temporary)
        launches = (rayhost(settings, folder), llama_server(other.program, settings))
        for pair in range(pairs):
            rate = 0.0
            for launch in launches:
                row = measure(
                    launch, folder, f"{seed} {pair}", clients=clients, seconds=seconds, rate=rate
                )
                rate = rate or FACTOR * row.capacity  # the same calls to both
                typer.echo(line(row))


def measure(
    launch: Launch, folder: Path, seed: str, *, clients: int, seconds: float, rate: float
) -> Row:
    """Run one server through the three phases; `rate` 0: four times its own capacity."""
    with running(launch, folder / f"{launch.name}.log") as server:

        def send(sent: Traffic, limit_s: float) -> tuple[tuple[Outcome, ...], float]:
            load = generate(Plan(server.url, DEFAULT_MODEL, sent, limit_s))
            return load.outcomes, load.wall_s

        send(traffic.make("unique", clients, 2, f"{seed} warm-up"), PATIENCE_S)
        answered, wall_s = send(traffic.make("unique", clients, 6, f"{seed} capacity"), PATIENCE_S)
        capacity = sum(not one.error for one in answered) / wall_s
        idle, _ = send(_probes(Random(f"{seed} idle"), PROBES, spaced=False), PATIENCE_S)
        sent = storm(seed, rate or FACTOR * capacity, seconds)
        stormed, _ = send(sent, DEADLINE_S)
    low = [one for one, call in zip(stormed, _calls(sent), strict=True) if call.headers == _LOW]
    high = [one for one, call in zip(stormed, _calls(sent), strict=True) if call.headers == _HIGH]
    refused = [one for one in low if one.error.startswith("http ")]
    errors = [one.error for one in low if one.error and one not in refused and one.error != "late"]
    return Row(
        server=launch.name,
        capacity=capacity,
        idle_p99_ms=_p99_ms(idle),
        goodput=_goodput(stormed, seconds),
        refused=len(refused),
        silent=sum(not one.retry_after_s for one in refused),
        late=sum(one.error == "late" for one in low),
        other={error: errors.count(error) for error in sorted(set(errors))},
        high_p99_ms=_p99_ms(high),
        high_failed=sum(bool(one.error) for one in high),
    )


def storm(seed: str, rate: float, seconds: float) -> Traffic:
    """Return calls of low priority as a Poisson process, and one of high every two seconds.

    Those of high priority begin when the queue has filled.
    """
    random = Random(f"storm {seed}")
    questions = (lane.calls[0] for lane in traffic.make("unique", 4096, 1, seed).lanes)
    lanes, at = [], 0.0
    while at < seconds:
        call = msgspec.structs.replace(next(questions), headers=_LOW)
        lanes.append(Lane((call,), start_s=round(at, 6)))
        at += random.expovariate(rate)
    count = int((seconds - DEADLINE_S) / PROBE_EVERY_S)
    return Traffic((*lanes, *_probes(random, count, spaced=True).lanes))


def _probes(random: Random, count: int, *, spaced: bool) -> Traffic:
    calls = [lane.calls[0] for lane in traffic.unique(random, count, 1).lanes]
    high = [msgspec.structs.replace(call, headers=_HIGH) for call in calls]
    if not spaced:
        return Traffic((Lane(tuple(high)),))
    first = DEADLINE_S
    return Traffic(
        tuple(Lane((call,), start_s=first + PROBE_EVERY_S * n) for n, call in enumerate(high))
    )


def _calls(sent: Traffic) -> list[Call]:
    return [call for lane in sent.lanes for call in lane.calls]


def _goodput(outcomes: tuple[Outcome, ...], seconds: float) -> float:
    """Return the answers a second that ended between the first deadline and the last call."""
    ends = [one.start_s + one.latency_s for one in outcomes if not one.error]
    return sum(DEADLINE_S < end <= seconds for end in ends) / (seconds - DEADLINE_S)


def _p99_ms(outcomes: "list[Outcome] | tuple[Outcome, ...]") -> float | None:
    """Return the p99 of times to first token; one that never came counts as the patience."""
    times = [DEADLINE_S if one.ttft_s is None else one.ttft_s for one in outcomes]
    found = percentile(times, 0.99)
    return None if found is None else found * 1000


HEAD = (
    "| server | capacity /s | goodput /s | of capacity | refused | without Retry-After | late | "
    "other | high priority: TTFT p99, idle | overloaded | failed |\n|" + " --- |" * 11
)


def line(row: Row) -> str:
    """Return a row of the table."""
    cells = (
        row.server,
        f"{row.capacity:.2f}",
        f"{row.goodput:.2f}",
        f"{row.goodput / row.capacity:.0%}" if row.capacity else "-",
        row.refused,
        row.silent,
        row.late,
        ", ".join(f"{error}: {count}" for error, count in row.other.items()) or "-",
        _ms(row.idle_p99_ms),
        _ms(row.high_p99_ms),
        row.high_failed,
    )
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"


if __name__ == "__main__":
    typer.run(main)
