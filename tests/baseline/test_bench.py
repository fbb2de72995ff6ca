"""A whole baseline of a tiny model, in real processes."""

from pathlib import Path

import msgspec
import pytest

from rayhost.baseline import bench, cpu
from rayhost.baseline.calibration import Subject
from rayhost.baseline.child import ChildFailed
from rayhost.baseline.records import Baseline
from rayhost.baseline.report import host_lines
from rayhost.baseline.spread import MIN_RUNS
from rayhost.baseline.sweep import Effort
from rayhost.baseline.tasks import Done, Loaded, Measure, Point, Rates, Read, Timed
from rayhost.errors import RayhostError
from tests.engine.test_llama import load
from tests.support.tiny_gguf import write_broken_gguf, write_tiny_llama

BRIEF = Effort(60.0, 0.01, (1, 2), 96, every_thread_count=False)


def quietly(_what: str, _done: float) -> None:
    """Report to nobody."""


def test_every_planned_point_is_measured_with_a_spread(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "LARGEST_READ", 8 << 20)
    monkeypatch.setattr(bench, "READ_S", 0.02)
    here = cpu.host()
    said: list[str] = []
    found = bench.take(
        here,
        [Subject("tiny", tiny_model, "sha256:1")],
        BRIEF,
        quick=True,
        report=lambda what, _done: said.append(what),
    )
    [model] = found.models
    assert {(row.kv_layout, row.kind, row.sequences, row.depth) for row in model.rows} == {
        (layout, kind, sequences, depth)
        for layout in ("split", "unified")
        for depth in (0, 96)
        for kind, sequences in (("generate", 1), ("generate", 2), ("prefill", 1))
    }
    assert all(row.tokens_s.runs >= MIN_RUNS for row in model.rows)
    assert all(0 < row.tokens_s.low <= row.tokens_s.high for row in model.rows)
    assert model.missing == ()
    assert model.memory is not None
    assert model.memory.at_rest > 1 << 20
    assert {read.threads for read in found.memory} == {1, here.cores}
    assert "tiny: memory at the size of the weights" in said


def test_a_model_that_does_not_run_costs_no_other(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "LARGEST_READ", 8 << 20)
    monkeypatch.setattr(bench, "READ_S", 0.02)
    broken = Subject("broken", write_broken_gguf(tmp_path / "b.gguf"), "i")
    brief = Effort(60.0, 0.01, (1,), 0, every_thread_count=False)

    def take(*subjects: Subject) -> Baseline:
        return bench.take(cpu.host(), subjects, brief, quick=True, report=quietly)

    found = take(broken, Subject("tiny", tiny_model, "j"))
    assert [model.name for model in found.models] == ["tiny"]
    [told] = found.failed
    assert told.startswith("broken: not measured: ")
    assert told in host_lines(found)
    with pytest.raises(RayhostError, match="broken: not measured"):
        take(broken)


def test_a_box_that_is_out_of_time_says_what_it_left_out(tiny_model: Path) -> None:
    here = cpu.host()
    found = bench.model(Subject("tiny", tiny_model, "i"), here, BRIEF, 0.001, quietly)
    assert [(row.kind, row.sequences, row.depth) for row in found.rows] == [("generate", 1, 0)]
    assert len(found.missing) == 2
    assert all("no time left" in line for line in found.missing)


def test_a_file_that_does_not_load_is_an_error_with_its_reason(tmp_path: Path) -> None:
    task = Measure(load(write_broken_gguf(tmp_path / "b.gguf")), (), 0.1, 1.0)
    with pytest.raises(ChildFailed, match="failed to read"):
        list(bench.probe(task))


def test_what_is_no_model_ends_the_bench(tmp_path: Path) -> None:
    broken = write_broken_gguf(tmp_path / "b.gguf")
    with pytest.raises(RayhostError, match="ends in the middle"):
        bench.model(Subject("b", broken, "i"), cpu.host(), BRIEF, 10.0, quietly)


def test_the_probe_answers_load_points_and_the_end_in_order(tiny_model: Path) -> None:
    points = (Point("generate", 3, 64), Point("prefill", 1, 0))
    answers = list(bench.probe(Measure(load(tiny_model), points, 0.01, 60.0)))
    assert [type(answer) for answer in answers] == [Loaded, Timed, Timed, Done]
    assert [answer.point for answer in answers if isinstance(answer, Timed)] == [0, 1]


def test_a_depth_of_thousands_is_really_filled(tmp_path: Path) -> None:
    long = write_tiny_llama(tmp_path / "long.gguf", context=8192)
    deep = msgspec.structs.replace(load(long), context=6000, concurrency=1)
    points = (Point("generate", 1, 5000), Point("prefill", 1, 5000, tokens=200))
    answers = list(bench.probe(Measure(deep, points, 0.01, 60.0)))
    assert [type(answer) for answer in answers] == [Loaded, Timed, Timed, Done]


def test_memory_is_read_by_as_many_threads_as_asked() -> None:
    here = cpu.host()
    rates, done = list(bench.probe(Read(4 << 20, 2, here.ids, 0.01)))
    assert isinstance(rates, Rates)
    assert len(rates.bytes_s) >= MIN_RUNS
    assert isinstance(done, Done)
    assert done.peak_bytes > 4 << 20
