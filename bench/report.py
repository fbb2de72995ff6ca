"""A result: all that was measured, and how, and the Markdown that people read. Pure."""

from collections.abc import Sequence

import msgspec

from bench import traffic
from bench.bottleneck import Harness
from bench.machine import Machine
from bench.servers import Settings
from bench.stats import Figures, Spread, ratios, spread


class Case(msgspec.Struct, frozen=True, order=True):
    """A workload under a number of clients."""

    workload: str
    clients: int


class Run(msgspec.Struct, frozen=True):
    """One run of one server: the `pair`-th of its case."""

    case: Case
    pair: int
    server: str
    figures: Figures
    harness: Harness
    disturbed: int = 0  # attempts before this one, thrown away because the harness was a bottleneck


class Side(msgspec.Struct, frozen=True):
    """One of the servers: how it was built and started."""

    name: str
    built: str
    system_info: str
    argv: tuple[str, ...]


class Overload(msgspec.Struct, frozen=True):
    """What an overload case was derived from: one closed-loop run of each server."""

    case: Case
    capacity_per_s: float  # the better server's calls/s; four times as many arrive
    deadline_s: float  # twice the slower server's median latency


class Result(msgspec.Struct, frozen=True):
    """One comparison. `sides` are ours and the peer's, in this order."""

    date: str
    commit: str
    command: str
    machine: Machine
    settings: Settings
    seed: int
    pairs: int
    sides: tuple[Side, Side]
    runs: tuple[Run, ...]
    overloads: tuple[Overload, ...] = ()


# Figure, heading, digits of its absolute value.
RATIOS = (
    ("requests_per_s", "req/s"),
    ("tokens_per_s", "tokens/s"),
    ("ttft_p50_ms", "TTFT p50"),
    ("ttft_p99_ms", "TTFT p99"),
    ("gap_p50_ms", "gap p50"),
    ("gap_p99_ms", "gap p99"),
    ("latency_p50_ms", "latency p50"),
    ("latency_p99_ms", "latency p99"),
    ("peak_rss_mib", "RSS"),
    ("peak_pss_mib", "PSS"),
)


def markdown(result: Result) -> str:
    """Return the report: ratios, absolute medians, then how it was done."""
    ours, peer = result.sides
    machine, settings = result.machine, result.settings
    warning = []
    if ours.system_info != peer.system_info:
        warning = [
            "**The two were compiled for different instructions**, so the ratios tell of the "
            "builds as much as of the servers.",
            "",
        ]
    return "\n".join(
        [
            f"## {ours.name} beside {peer.name}, {result.date[:10]}",
            "",
            f"{machine.cpu}, {machine.cpus} CPUs, {machine.memory_gib:g} GiB; "
            f"{settings.name}, {settings.slots} slots of {settings.context} tokens, "
            f"{settings.threads} threads. Ratios are {ours.name} / {peer.name}, the median of "
            f"{result.pairs} pairs of alternating runs (least to greatest): above 1 is better for "
            "req/s and tokens/s, below 1 for times and memory.",
            "",
            *warning,
            *_ratio_table(result),
            *_at_least(result),
            "",
            f"Medians of each, {ours.name} · {peer.name}; times in ms, memory in MiB:",
            "",
            *_absolute_table(result),
            "",
            *_how(result),
            "",
        ]
    )


def cases(result: Result) -> list[Case]:
    """Return the cases, in the order they ran."""
    return list(dict.fromkeys(run.case for run in result.runs))


def _figures(result: Result, case: Case, side: Side) -> list[Figures]:
    """Return a side's figures of a case, by pair."""
    found = [run for run in result.runs if run.case == case and run.server == side.name]
    return [run.figures for run in sorted(found, key=lambda run: run.pair)]


def _ratio_table(result: Result) -> list[str]:
    rows = []
    for case in cases(result):
        ours, peers = (_figures(result, case, side) for side in result.sides)
        cells = [
            _spread(ratios(_column(ours, figure), _column(peers, figure))) for figure, _ in RATIOS
        ]
        errors = f"{sum(one.failed for one in ours)} · {sum(one.failed for one in peers)}"
        rows.append([case.workload, str(case.clients), *cells, errors])
    return _table(["workload", "clients", *(heading for _, heading in RATIOS), "errors"], rows)


def _at_least(result: Result) -> list[str]:
    """Say where the load generator was the limit, if it was."""
    known = {case.workload for case in cases(result)} & set(traffic.KNOWN)
    if not known:
        return []
    return [
        "",
        f"{', '.join(sorted(known))}: {result.sides[0].name} answers faster than the load "
        "generator asks, so its req/s is at least this.",
    ]


def _absolute_table(result: Result) -> list[str]:
    rows = []
    for case in cases(result):
        ours, peers = (_figures(result, case, side) for side in result.sides)
        cells = [
            " · ".join(_number(spread(_column(side, figure))) for side in (ours, peers))
            for figure, _ in RATIOS
        ]
        cells += [
            " · ".join(_number(spread([figure(one) for one in side])) for side in (ours, peers))
            for figure in (_cached_share, _tokens_each)
        ]
        rows.append([case.workload, str(case.clients), *cells])
    headings = [heading for _, heading in RATIOS]
    return _table(["workload", "clients", *headings, "prompt cached, %", "tokens an answer"], rows)


def _column(figures: Sequence[Figures], name: str) -> list[float | None]:
    return [getattr(one, name) for one in figures]


def _tokens_each(figures: Figures) -> float | None:
    whole = figures.calls - figures.failed
    return figures.generated_tokens / whole if whole else None


def _cached_share(figures: Figures) -> float | None:
    """Return how much of the prompts the server says it did not compute, in percent."""
    return 100 * figures.cached_tokens / figures.prompt_tokens if figures.prompt_tokens else None


def _spread(found: Spread | None) -> str:
    return f"**{found.median:.2f}** ({found.low:.2f} to {found.high:.2f})" if found else "-"


def _number(found: Spread | None) -> str:
    if found is None:
        return "-"
    return f"{found.median:.0f}" if found.median >= 100 else f"{found.median:.3g}"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [headings, ["---"] * len(headings), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _how(result: Result) -> list[str]:
    harness = [run.harness for run in result.runs]
    lines = [
        f"Made by `{result.command}` at commit {result.commit}, seed {result.seed}; "
        f"kernel {result.machine.kernel}, load average before it {result.machine.load_average:.2f}."
        f" The load generator used at most {max(one.cpu_share for one in harness):.1%} of a core "
        f"and ran at most {max(one.lag_p99_ms for one in harness):.1f} ms late (p99);"
        f" {sum(run.disturbed for run in result.runs)} disturbed runs were repeated.",
    ]
    lines += [
        f"{one.case.workload} at {one.case.clients} clients: {one.capacity_per_s:.2f} calls/s can "
        f"be carried, four times as many arrive, clients hang up after {one.deadline_s:.1f} s."
        for one in result.overloads
    ]
    if result.machine.environment:
        variables = " ".join(f"{k}={v}" for k, v in sorted(result.machine.environment.items()))
        lines.append(f"Environment of both: `{variables}`.")
    for side in result.sides:
        lines.append(f"- {side.name}: {side.built}; `{' '.join(side.argv)}`; {side.system_info}")
    return lines
