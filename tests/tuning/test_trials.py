"""Quantizing, judging and timing a tiny model, in real processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rayhost.baseline import bench, cpu
from rayhost.baseline.calibration import Settings
from rayhost.baseline.child import ChildFailed
from rayhost.baseline.spread import MIN_RUNS
from rayhost.baseline.tasks import Answer, Done, Timed
from rayhost.models.gguf import read_info
from rayhost.tuning import trials
from rayhost.tuning.search import WEIGHTS, Weights
from rayhost.tuning.trials import Trials
from tests.support import tiny_gguf
from tests.support.tiny_gguf import write_broken_gguf


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Trials:
    monkeypatch.setattr(trials, "POINT_S", 0.01)
    return Trials(cpu.host(), sequences=2, depth=32)


def test_a_file_is_no_way_from_itself(here: Trials, tiny_model: Path) -> None:
    judged = here.judge(tiny_model, tiny_model, Settings())
    assert judged.divergence == pytest.approx(0, abs=1e-9)
    assert judged.agreement == 1
    assert judged.positions > 1000


def test_fewer_bits_are_farther_away(here: Trials, tiny_model: Path, tmp_path: Path) -> None:
    found = [
        here.judge(tiny_model, here.quantize(tiny_model, Weights(name), tmp_path), Settings())
        for name in ("Q8_0", "Q4_0")
    ]
    assert 0 < found[0].divergence < found[1].divergence
    assert found[0].agreement > found[1].agreement


def test_every_kind_of_weights_can_be_made(here: Trials, tiny_model: Path, tmp_path: Path) -> None:
    for weights in WEIGHTS:
        path = here.quantize(tiny_model, weights, tmp_path)
        assert path.name == f"{weights.label}.gguf"
        assert read_info(path).tensor_bytes < read_info(tiny_model).tensor_bytes


def test_another_vocabulary_cannot_be_judged(
    here: Trials, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_gguf, "MERGES", tiny_gguf.MERGES[:-1])
    other = tiny_gguf.write_tiny_llama(tmp_path / "other.gguf")
    size = len(tiny_gguf.vocabulary())
    with pytest.raises(ChildFailed, match=f"{size + 1} and {size} tokens"):
        here.judge(tiny_model, other, Settings())


def test_a_broken_source_is_told_of(here: Trials, tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match="failed to"):
        here.quantize(write_broken_gguf(tmp_path / "b.gguf"), Weights("Q8_0"), tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(threads=1, kv_layout="unified", ubatch=128),
        Settings(kv_type="q8_0"),
        Settings(flash_attention=False),
    ],
)
def test_settings_of_every_kind_are_timed(
    here: Trials, tiny_model: Path, settings: Settings
) -> None:
    found = here.measure(tiny_model, settings)
    assert min(found.prefill.low, found.alone.low, found.together.low) > 0
    assert found.together.runs >= MIN_RUNS
    assert found.peak_bytes > 1 << 20


def timings(monkeypatch: pytest.MonkeyPatch, *runs: tuple[float, ...]) -> list[object]:
    """Have the probe answer with these rates, run after run; return what was asked."""
    asked: list[object] = []

    def probe(task: object, _timeout_s: float) -> Iterator[Answer]:
        rates = runs[len(asked)]
        asked.append(task)
        yield from (Timed(number, rates) for number in range(3))
        yield Done(1)

    monkeypatch.setattr(bench, "probe", probe)
    return asked


def test_a_disturbed_run_is_repeated(monkeypatch: pytest.MonkeyPatch, here: Trials) -> None:
    asked = timings(monkeypatch, (10, 50, 100), (100, 101, 102))
    assert here.measure(Path("m"), Settings()).together.median == 101
    assert len(asked) == 2


def test_where_every_run_is_disturbed_the_steadiest_counts(
    monkeypatch: pytest.MonkeyPatch, here: Trials
) -> None:
    asked = timings(monkeypatch, (10, 50, 100), (60, 80, 100), (10, 60, 90))
    assert here.measure(Path("m"), Settings()).together.median == 80
    assert len(asked) == trials.MOST_RUNS


def test_q8_cells_without_flash_attention_fail_alone(here: Trials, tiny_model: Path) -> None:
    with pytest.raises(ChildFailed):
        here.measure(tiny_model, Settings(kv_type="q8_0", flash_attention=False))


def test_pairs_are_as_many_runs_as_asked(here: Trials, tiny_model: Path) -> None:
    same = (tiny_model, Settings())
    gain, before, after = here.pairs("memory", same, same, 3)
    assert gain.runs == 3
    assert gain.median == pytest.approx(1, abs=0.2)
    assert before.peak_bytes == pytest.approx(after.peak_bytes, rel=0.2)


def test_the_shipped_text_is_of_a_kilobyte_or_several() -> None:
    text = trials.passage()
    assert 2_000 <= len(text) <= 8_000
    assert text.isascii()
