"""Runs: one server, one traffic, one set of figures; and the alternation of them.

Effects only: starts servers, the load generator and the watcher; what they bring is judged and
counted by `bottleneck` and `stats`.
"""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from bench import traffic
from bench.bottleneck import Bottleneck, Limits, judge
from bench.load import Load, Plan
from bench.machine import CHECKOUT
from bench.memory import Watch
from bench.report import Case, Overload, Run
from bench.servers import Launch, ServerFailed, running
from bench.stats import figures
from bench.traffic import Traffic

PATIENCE_S = 300.0  # where a workload sets no deadline: a call that takes longer is an error
REPEATS = 2  # of a run that the harness disturbed
NO_LIMITS = Limits(cpu_share=float("inf"), lag_p99_ms=float("inf"))
WARM_UP = traffic.Call(({"role": "user", "content": "Hello!"},), 4)

Say = Callable[[str], None]


class Bench:
    """One comparison's servers, ours first, and where their output goes."""

    def __init__(
        self,
        launches: tuple[Launch, Launch],
        model: str,
        folder: Path,
        limits: Limits,
        say: Say,
    ) -> None:
        self._launches = launches
        self._model = model
        self._folder = folder
        self._limits = limits
        self._say = say

    def compare(
        self, case: Case, pairs: Iterable[int], seed: int, rounds: int
    ) -> tuple[list[Run], Overload | None]:
        """Run a case, the servers in turn. Raises Bottleneck, ServerFailed."""
        overload = None
        if case.workload == traffic.OVERLOAD:
            overload = self._calibrate(case, seed, rounds)
        runs = []
        for pair in pairs:
            # Another seed for each pair, the same for both of its servers.
            sent = self._traffic(case, rounds, f"{seed} {pair}", overload)
            for launch in self._launches:
                deadline = overload.deadline_s if overload else PATIENCE_S
                runs.append(self._run(launch, case, pair, sent, deadline))
        return runs, overload

    def _traffic(self, case: Case, rounds: int, seed: str, overload: Overload | None) -> Traffic:
        if overload is None:
            return traffic.make(case.workload, case.clients, rounds, seed)
        return traffic.overload(case.clients, rounds, seed, overload.capacity_per_s)

    def _calibrate(self, case: Case, seed: int, rounds: int) -> Overload:
        """Find what can be carried: the same questions from `clients` that wait their turn."""
        sent = traffic.make(case.workload, case.clients, rounds, f"{seed} calibration")
        runs = [self._run(one, case, 0, sent, PATIENCE_S) for one in self._launches]
        found = [run.figures for run in runs]
        latencies = [one.latency_p50_ms for one in found if one.latency_p50_ms is not None]
        capacity = max(one.requests_per_s for one in found)
        if not latencies or not capacity:
            raise ServerFailed("no server answered the calls that calibrate an overload")
        return Overload(case, capacity, round(2 * max(latencies) / 1000, 1))

    def _run(self, launch: Launch, case: Case, pair: int, sent: Traffic, deadline_s: float) -> Run:
        """Return one good run; one that the harness disturbed is repeated, then it is an error."""
        for disturbed in itertools.count():
            try:
                found = self._try(launch, case, pair, sent, deadline_s)
            except Bottleneck as error:
                if disturbed == REPEATS:
                    raise
                self._say(f"thrown away and repeated: {error}")
            else:
                run = msgspec.structs.replace(found, disturbed=disturbed)
                self._say(line(run))
                return run
        raise AssertionError("unreachable: the loop above has no end")

    def _try(self, launch: Launch, case: Case, pair: int, sent: Traffic, deadline_s: float) -> Run:
        log = self._folder / f"{launch.name}-{case.workload}-{case.clients}-{pair}.log"
        known = case.workload in traffic.KNOWN
        warmed = msgspec.structs.replace(sent, warm_up=(WARM_UP, *sent.warm_up))
        with running(launch, log) as server, Watch(server.pid) as watch:
            load = generate(Plan(server.url, self._model, warmed, deadline_s))
        return Run(
            case=case,
            pair=pair,
            server=launch.name,
            figures=figures(load, watch.memory),
            harness=judge(load, watch.cpu_s, NO_LIMITS if known else self._limits),
        )


def generate(plan: Plan) -> Load:
    """Run the load generator in a process of its own. Raises ServerFailed if it could not work."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        input=msgspec.json.encode(plan),
        capture_output=True,
        cwd=CHECKOUT,
        check=False,
    )
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ServerFailed(f"the load generator gave up: {' '.join(last)}")
    return msgspec.json.decode(done.stdout, type=Load)


def line(run: Run) -> str:
    """Return what a person who waits wants to see of a run."""
    one = run.figures
    ttft = "-" if one.ttft_p50_ms is None else f"{one.ttft_p50_ms:.0f}"
    gap = "-" if one.gap_p50_ms is None else f"{one.gap_p50_ms:.1f}"
    return (
        f"{run.case.workload:<19} {run.case.clients:>2} clients  {run.pair:>2}  {run.server:<13}"
        f"{one.tokens_per_s:>7.1f} tokens/s  TTFT {ttft:>6} ms  gap {gap:>6} ms  "
        f"{one.failed} of {one.calls} failed  {one.wall_s:.1f} s"
    )
