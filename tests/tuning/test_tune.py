"""A whole search, against a bench whose figures are made up."""

import io
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from rayhost.baseline.calibration import Goal, Settings
from rayhost.baseline.child import ChildFailed
from rayhost.baseline.spread import Spread, spread
from rayhost.errors import RayhostError
from rayhost.tuning import search, tune
from rayhost.tuning.quality import Limits
from rayhost.tuning.report import refusals, render, summary
from rayhost.tuning.search import Figures, Weights
from rayhost.tuning.tasks import Judged
from rayhost.tuning.tune import Outcome, Search
from tests.tuning.test_search import figures

FAST = {"as it is": 1.0, "Q4_0": 3.0, "Q8_0": 1.5, "Q6_K": 1.2}
DIVERGENCE = {"Q4_0": 0.6, "Q8_0": 0.01, "Q6_K": 0.02}
WEIGHTS = (Weights("Q4_0"), Weights("Q8_0"), Weights("Q6_K"))


@dataclass
class FakeBench:
    """Speeds by file and settings. `broken` labels fail to quantize, `silent` ones to run."""

    broken: frozenset[str] = frozenset()
    silent: frozenset[str] = frozenset()
    q8_cells_diverge: bool = False
    timed: list[tuple[str, Settings]] = field(default_factory=list)
    judged: list[tuple[str, str]] = field(default_factory=list)

    def quantize(self, source: Path, weights: Weights, folder: Path) -> Path:
        if weights.label in self.broken:
            raise ChildFailed("no such type")
        path = folder / f"{weights.label}.gguf"
        path.write_bytes(b"x" * 10)
        return path

    def judge(self, reference: Path, candidate: Path, settings: Settings) -> Judged:
        self.judged.append((reference.stem, candidate.stem))
        far = self.q8_cells_diverge and settings.kv_type == "q8_0"
        return Judged(0.9 if far else DIVERGENCE.get(candidate.stem, 0.0), 0.95, 10.0, 10.0, 1000)

    def measure(self, path: Path, settings: Settings) -> Figures:
        if path.stem in self.silent:
            raise ChildFailed("killed by SIGABRT")
        self.timed.append((path.stem, settings))
        speed = FAST.get(path.stem, 1.0) * (1.3 if settings.kv_type == "q8_0" else 1.0)
        return figures(prefill=300 * speed, alone=100 * speed, together=200 * speed)

    def pairs(
        self, goal: Goal, source: tuple[Path, Settings], chosen: tuple[Path, Settings], count: int
    ) -> tuple[Spread, Figures, Figures]:
        before, after = self.measure(*source), self.measure(*chosen)
        return spread([search.cost(goal, before) / search.cost(goal, after)] * count), before, after


@pytest.fixture
def served(tmp_path: Path) -> Path:
    path = tmp_path / "as it is.gguf"
    path.write_bytes(b"x" * 12)
    return path


def searched(
    bench: FakeBench, served: Path, limits: Limits | None = None, reference: Path | None = None
) -> Outcome:
    work = served.parent / "work"
    work.mkdir(exist_ok=True)
    return Search(
        bench=bench,
        goal="throughput",
        limits=limits or Limits(),
        served=served,
        reference=reference or served,
        folder=work,
        report=lambda what, done: None,
        weights=WEIGHTS,
    ).run(search.axes(1, 1))


def test_the_fastest_within_the_limits_wins(served: Path) -> None:
    found = searched(FakeBench(), served)
    assert found.weights == Weights("Q8_0")
    assert found.settings == Settings(kv_type="q8_0")
    assert found.gain is not None
    assert found.gain.median == pytest.approx(1.5 * 1.3)
    assert found.path is not None
    assert found.path.exists()


def test_what_a_limit_refused_is_gone_but_its_worth_is_told(served: Path) -> None:
    found = searched(FakeBench(), served)
    assert not (served.parent / "work" / "Q4_0.gguf").exists()
    alone, with_settings, widen = refusals(found, "throughput", 8)
    assert alone == (
        "refused Q4_0 (3.00 times as good for throughput, 3.00 times the tokens/s of 8 sequences): "
        "KL divergence 0.600 is above 0.1"
    )
    assert with_settings.startswith("refused Q4_0, kv type q8_0 (3.90 times")
    assert "--max-divergence" in widen


def test_what_is_refused_and_slower_is_not_tried_again(served: Path) -> None:
    bench = FakeBench(silent=frozenset({"Q4_0"}))
    found = searched(bench, served)
    assert [tried.settings for tried in found.tried if tried.label == "Q4_0"] == [Settings()]
    assert not any("--max-divergence" in line for line in refusals(found, "throughput", 8))


def test_the_table_fits_80_columns(served: Path) -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(render(searched(FakeBench(), served), "throughput", 8, 256))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "Q4_0, kv type" in text


def test_wider_limits_let_it_win(served: Path) -> None:
    assert searched(FakeBench(), served, Limits(divergence=1.0)).weights == Weights("Q4_0")


def test_cells_that_cost_too_much_quality_are_not_taken(served: Path) -> None:
    found = searched(FakeBench(q8_cells_diverge=True), served)
    assert found.settings == Settings()
    assert any("KL divergence 0.900" in why for tried in found.tried for why in tried.refused)


def test_weights_that_cannot_be_made_or_run_are_named_and_cost_no_other(served: Path) -> None:
    bench = FakeBench(broken=frozenset({"Q8_0"}), silent=frozenset({"Q4_0"}))
    found = searched(bench, served)
    assert found.weights == Weights("Q6_K")
    told = {tried.label: tried.refused for tried in found.tried if tried.refused}
    assert told["Q8_0"] == ("no such type",)
    assert told["Q4_0"][-1] == "killed by SIGABRT"


def test_a_better_source_is_what_candidates_are_made_of_and_judged_by(served: Path) -> None:
    better = served.with_name("f16.gguf")
    better.write_bytes(b"x" * 30)
    bench = FakeBench()
    found = searched(bench, served, reference=better)
    assert {reference for reference, _ in bench.judged} == {"f16"}
    assert bench.judged[0] == ("f16", "as it is")  # what the served file costs, for the table
    assert found.tried[0].judged is not None


def test_where_nothing_is_better_the_file_stays(served: Path) -> None:
    bench = FakeBench(broken=frozenset({"Q4_0", "Q8_0", "Q6_K"}), q8_cells_diverge=True)
    found = searched(bench, served)
    assert (found.weights, found.path, found.gain) == (None, None, None)
    assert summary(found, "throughput", 8, 256) == [
        "for throughput, nothing is better than the file as it is with its defaults"
    ]


def test_better_settings_alone_keep_the_file(served: Path) -> None:
    found = searched(FakeBench(broken=frozenset({"Q4_0", "Q8_0", "Q6_K"})), served)
    assert (found.weights, found.path) == (None, None)
    assert found.settings.kv_type == "q8_0"
    assert found.gain is not None


def test_a_served_file_that_does_not_run_ends_it(served: Path) -> None:
    with pytest.raises(RayhostError, match=r"as it is\.gguf: cannot be measured: killed by SIG"):
        searched(FakeBench(silent=frozenset({"as it is"})), served)


def test_the_summary_says_what_was_bought_and_what_it_cost(served: Path) -> None:
    text = "\n".join(summary(searched(FakeBench(), served), "throughput", 8, 256))
    assert "for throughput: Q8_0, kv type q8_0: 1.95 (1.95 to 1.95) times as good" in text
    assert "8 sequences 200 to 390 (1.95x) tokens/s" in text
    assert "KL divergence 0.0100 nats" in text


def test_only_what_is_quantized_already_is_warned_of() -> None:
    assert tune.warning("F16") is None
    assert tune.warning("BF16") is None
    told = tune.warning("Q4_1")
    assert told is not None
    assert "Q4_1, already quantized" in told
    assert "--source" in told


def test_only_what_differs_is_described() -> None:
    assert tune.describe(Settings()) == "default settings"
    changed = msgspec.structs.replace(Settings(), threads=1, kv_type="q8_0")
    assert tune.describe(changed) == "threads 1, kv type q8_0"
