"""The report: ratios of pairs, medians of each, and everything one needs to judge them."""

import msgspec
import pytest

from bench import report
from bench.bottleneck import Harness
from bench.machine import Machine
from bench.report import Case, Overload, Result, Run, Side
from bench.servers import Settings
from bench.stats import Figures

UNIQUE = Case("unique", 8)
OVERLOAD = Case("overload", 8)
OURS = Side("rayhost", "this checkout", "AVX512 = 1", ("rayhost", "serve"))
PEER = Side("llama-server", "llama.cpp, -O3", "AVX512 = 1", ("llama-server", "--parallel", "8"))


def figures(tokens_per_s: float, ttft_ms: float | None, errors: dict[str, int]) -> Figures:
    return Figures(
        calls=10,
        errors=errors,
        wall_s=5.0,
        prompt_tokens=500,
        cached_tokens=125,
        generated_tokens=400,
        requests_per_s=2.0,
        tokens_per_s=tokens_per_s,
        ttft_p50_ms=ttft_ms,
        ttft_p99_ms=ttft_ms,
        gap_p50_ms=20.0,
        gap_p99_ms=40.0,
        latency_p50_ms=1000.0,
        latency_p99_ms=1234.5,
        peak_rss_mib=300.0,
        peak_pss_mib=250.0,
    )


def run(
    case: Case,
    pair: int,
    server: str,
    tokens_per_s: float,
    ttft_ms: float | None = 100.0,
    errors: dict[str, int] | None = None,
) -> Run:
    return Run(
        case=case,
        pair=pair,
        server=server,
        figures=figures(tokens_per_s, ttft_ms, errors or {}),
        harness=Harness(cpu_share=0.01 * pair, lag_p99_ms=1.5),
    )


def result(*runs: Run, peer: Side = PEER, environment: dict[str, str] | None = None) -> Result:
    return Result(
        date="2030-01-02T03:04:05+00:00",
        commit="abc123",
        command="python -m bench.compare",
        machine=Machine("A CPU", 2, 3.8, "6.1.0", 0.05, environment or {}),
        settings=Settings("/models/m.gguf", "m", 2048, 8, 2, "split"),
        seed=7,
        pairs=3,
        sides=(OURS, peer),
        runs=runs,
        overloads=(Overload(OVERLOAD, 2.5, 8.0),),
    )


PAIRS = (
    run(UNIQUE, 1, "rayhost", 120.0),
    run(UNIQUE, 1, "llama-server", 100.0),
    run(UNIQUE, 2, "rayhost", 90.0),
    run(UNIQUE, 2, "llama-server", 100.0),
    run(UNIQUE, 3, "rayhost", 110.0, errors={"late": 2}),
    run(UNIQUE, 3, "llama-server", 100.0),
)


def row(text: str, start: str, table: int) -> list[str]:
    lines = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in lines[table].strip("|").split("|")]


def heading(text: str, table: int) -> list[str]:
    return row(text, "workload", table)


def cell(text: str, start: str, column: str, table: int) -> str:
    return row(text, start, table)[heading(text, table).index(column)]


def test_a_ratio_is_the_median_of_the_pairs_with_its_spread() -> None:
    text = report.markdown(result(*PAIRS))
    assert cell(text, "unique | 8", "tokens/s", 0) == "**1.10** (0.90 to 1.20)"


def test_errors_are_those_of_all_runs_ours_first() -> None:
    assert cell(report.markdown(result(*PAIRS)), "unique | 8", "errors", 0) == "2 · 0"


def test_medians_of_each_stand_beside_the_ratios() -> None:
    text = report.markdown(result(*PAIRS))
    assert cell(text, "unique | 8", "tokens/s", 1) == "110 · 100"
    assert cell(text, "unique | 8", "latency p99", 1) == "1234 · 1234"
    assert cell(text, "unique | 8", "tokens an answer", 1) == "40 · 40"


def test_a_figure_that_nobody_has_is_a_dash() -> None:
    runs = [run(UNIQUE, 1, side, 0.0, ttft_ms=None) for side in ("rayhost", "llama-server")]
    text = report.markdown(result(*runs))
    assert cell(text, "unique | 8", "TTFT p50", 0) == "-"
    assert cell(text, "unique | 8", "TTFT p50", 1) == "- · -"


def test_every_row_has_a_cell_for_each_heading() -> None:
    text = report.markdown(result(*PAIRS))
    for table in (0, 1):
        assert len(row(text, "unique | 8", table)) == len(heading(text, table))


@pytest.mark.parametrize(
    "stated",
    [
        *("A CPU", "8 slots of 2048 tokens", "2 threads", "abc123", "seed 7", "llama.cpp, -O3"),
        *("`llama-server --parallel 8`", "at most 3.0% of a core", "1.5 ms late"),
        *("load average before it 0.05", "2.50 calls/s", "hang up after 8.0 s", "AVX512 = 1"),
        "`OMP_WAIT_POLICY=passive`",
    ],
)
def test_what_decides_the_figures_is_stated(stated: str) -> None:
    environment = {"OMP_WAIT_POLICY": "passive"}
    assert stated in report.markdown(result(*PAIRS, environment=environment))


def test_builds_for_different_instructions_are_pointed_out() -> None:
    other = msgspec.structs.replace(PEER, system_info="AVX2 = 1")
    assert "compiled for different instructions" in report.markdown(result(*PAIRS, peer=other))
    assert "compiled for different instructions" not in report.markdown(result(*PAIRS))


def test_a_result_survives_its_file() -> None:
    made = result(*PAIRS)
    assert msgspec.json.decode(msgspec.json.encode(made), type=Result) == made
