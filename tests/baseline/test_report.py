"""The report on a terminal."""

import io

from rich.console import Console

from rayhost.baseline import report
from rayhost.baseline.records import Baseline
from tests.baseline.figures import around, baseline


def shown(found: Baseline) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(report.render(found))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_every_figure_has_its_spread() -> None:
    text = shown(baseline())
    assert "memory read, 2 threads: 9.0 (8.1 to 10.8) GB/s over 1,074 MB, beyond the caches" in text
    assert "time to first token of a 128-token prompt: 160.0 (133.3 to 177.8) ms" in text
    assert "100 (90 to 120)" in text
    assert report.rate(around(0.5), 1, 2) == "0.50 (0.45 to 0.60)"


def test_the_model_is_set_beside_what_memory_allows() -> None:
    text = shown(baseline())
    assert "generation at batch 1 is at 50% of 200 tokens/s" in text
    assert "memory: 180 MB with one sequence of 1,184 tokens, 27.0 MB for each" in text


def test_what_was_not_measured_is_said() -> None:
    assert "not measured: 4 threads, split KV, 16 sequences: no time left" in shown(baseline())


def test_a_busy_machine_is_said_and_a_quiet_one_is_not() -> None:
    assert "other processes took 40% of its CPU time" in shown(baseline(others=0.4))
    assert "not quiet" not in shown(baseline(others=0.01))


def test_every_timed_row_is_in_the_table() -> None:
    lines = shown(baseline()).splitlines()
    assert sum(line.startswith(("generate", "prefill")) for line in lines) == 48
