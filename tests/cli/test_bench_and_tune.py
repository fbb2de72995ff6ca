"""`rayhost bench` and `rayhost tune` on a tiny model, in real processes."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest
from typer.testing import CliRunner, Result

from rayhost.baseline import bench, cpu, report, sweep
from rayhost.baseline.calibration import Calibrations, identity
from rayhost.baseline.records import Baseline
from rayhost.baseline.sweep import Effort
from rayhost.cli.main import app
from rayhost.models.store import Manifest, Store, StoredModel
from rayhost.tuning import search, trials
from rayhost.tuning.search import Weights

LIGHT = ("--sequences", "2", "--depth", "32")
LOOSE = ("--max-divergence", "9", "--min-agreement", "0", "--max-perplexity", "99")


@pytest.fixture
def tiny(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoredModel:
    """A store of its own and little to measure."""
    monkeypatch.setenv("RAYHOST_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sweep, "QUICK", Effort(30.0, 0.01, (1, 2), 64, every_thread_count=False))
    monkeypatch.setattr(bench, "LARGEST_READ", 8 << 20)
    monkeypatch.setattr(bench, "READ_S", 0.02)
    monkeypatch.setattr(trials, "POINT_S", 0.01)
    monkeypatch.setattr(trials, "MOST_RUNS", 1)
    monkeypatch.setattr(report, "noise", lambda _quiet: None)
    monkeypatch.setattr(search, "WEIGHTS", (Weights("Q8_0"),))
    return StoredModel("tiny", tiny_model, f"file:{tiny_model}", None, 1)


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result


def records(tmp_path: Path) -> Calibrations:
    return Calibrations(tmp_path / "home", cpu.host())


def test_bench_prints_json_writes_a_page_and_keeps_the_calibration(
    tiny: StoredModel, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    result = run("bench", "--quick", "--json", "--html", str(page), tiny.source)
    found = msgspec.json.decode(result.stdout, type=Baseline)
    assert [model.name for model in found.models] == ["tiny"]
    assert found.models[0].identity == identity(tiny)
    assert page.read_text().startswith("<!doctype html>")
    assert records(tmp_path).baseline(tiny) == found
    assert "rayhost bench: tiny: " in result.stderr


def test_bench_prints_a_table(tiny: StoredModel) -> None:
    result = run("bench", "--quick", tiny.source)
    assert "memory read, 1 thread" in result.stdout
    rows = [line for line in result.stdout.splitlines() if line.startswith("generate ")]
    assert len(rows) == 8
    assert not any("…" in row for row in rows)  # at the 80 columns of a small terminal


def test_bench_refuses_a_page_it_cannot_write_before_it_measures(
    tiny: StoredModel, tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, ["bench", "--html", str(tmp_path / "no" / "p.html")])
    assert result.exit_code == 1
    assert "there is no folder" in result.stderr


def test_bench_refuses_a_page_where_a_folder_is(tiny: StoredModel, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench", "--html", str(tmp_path)])
    assert result.exit_code == 1
    assert "no page can be written there" in result.stderr


def test_bench_of_a_store_leaves_out_what_is_damaged(tiny: StoredModel, tmp_path: Path) -> None:
    for name in ("good", "gone"):
        folder = tmp_path / "home" / "models" / name
        folder.mkdir(parents=True)
        path = shutil.copy(tiny.path, folder / "ab.gguf")
        size, mtime = Path(path).stat().st_size, Path(path).stat().st_mtime_ns
        manifest = Manifest("ab.gguf", f"pypi:{name}==1", "0" * 64, size, mtime)
        (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    (tmp_path / "home" / "models" / "gone" / "ab.gguf").unlink()
    result = run("bench", "--quick", "--json")
    assert "left out: gone: " in result.stderr
    found = msgspec.json.decode(result.stdout, type=Baseline)
    assert [model.name for model in found.models] == ["good"]


def test_an_interrupt_leaves_no_file_and_no_process(tiny: StoredModel, tmp_path: Path) -> None:
    brief = "from rayhost.tuning import trials; trials.POINT_S, trials.MOST_RUNS = 0.01, 1"
    verb = f"{brief}; from rayhost.cli.main import app; app()"
    command = [sys.executable, "-c", verb, "tune", tiny.source, *LIGHT]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tuning:
        assert tuning.stderr is not None
        next(line for line in tuning.stderr if "weights" in line)
        children = psutil.Process(tuning.pid).children(recursive=True)
        tuning.send_signal(signal.SIGINT)
        said = tuning.stderr.read()
    assert tuning.returncode == 130
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    assert list((tmp_path / "home" / "partial").iterdir()) == []
    assert records(tmp_path).tuned(tiny) is None


def test_a_full_disk_is_told_before_anything_is_measured(
    tiny: StoredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tiny.path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage)
    result = CliRunner().invoke(app, ["tune", tiny.source, *LIGHT])
    assert result.exit_code == 1
    assert "MB of disk" in result.stderr
    assert "the file as it is" not in result.stderr


def test_a_depth_beyond_the_context_is_refused(tiny: StoredModel) -> None:
    result = CliRunner().invoke(app, ["tune", tiny.source, "--depth", "500"])
    assert result.exit_code == 1
    assert "the model was trained for 512" in result.stderr


def test_undo_of_a_model_that_is_not_there_brings_none(tiny: StoredModel, tmp_path: Path) -> None:
    assert "was not tuned" in run("tune", "smollm2-135m", "--undo").stdout
    assert Store(tmp_path / "home").names() == ()


def test_where_nothing_is_better_an_earlier_choice_goes(
    tiny: StoredModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "home")
    with store.workplace("tiny", 10) as folder:
        (folder / "x.gguf").write_bytes(b"earlier")
        earlier = store.keep_variant("tiny", folder / "x.gguf")
    monkeypatch.setattr(search, "better", lambda *_: False)
    assert "uses the file as it is" in run("tune", tiny.source, *LIGHT).stdout
    assert store.variant("tiny", earlier) is None
    tuned = records(tmp_path).tuned(tiny)
    assert tuned is not None
    assert (tuned.applied, tuned.variant, tuned.gain) == (True, None, 1.0)


def test_that_a_busy_machine_found_nothing_is_not_kept(
    tiny: StoredModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "better", lambda *_: False)
    monkeypatch.setattr(report, "noise", lambda _quiet: "it was busy")
    assert run("tune", tiny.source, *LIGHT).stdout.endswith("it was busy\nnothing was changed\n")
    assert records(tmp_path).tuned(tiny) is None


def test_tune_keeps_what_it_chose_and_undo_forgets_it(tiny: StoredModel, tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    result = run(
        "tune", tiny.source, "--for", "memory", "--sequences", "2", "--depth", "32", *LOOSE
    )
    tuned = records(tmp_path).tuned(tiny)
    assert tuned is not None
    assert (tuned.applied, tuned.goal, tuned.sequences) == (True, "memory", 2)
    assert (tuned.variant is None) == (tuned.label == "as it is")
    if tuned.variant:
        assert store.variant("tiny", tuned.variant) is not None
    assert "warning" not in result.stderr  # f32 is as precise as can be
    assert list((store.root / "partial").iterdir()) == []
    assert "back to the file as it is" in run("tune", tiny.source, "--undo").stdout
    assert records(tmp_path).tuned(tiny) is None
    assert "was not tuned" in run("tune", tiny.source, "--undo").stdout


def test_a_dry_run_keeps_only_what_it_is_worth(tiny: StoredModel, tmp_path: Path) -> None:
    result = run("tune", tiny.source, "--dry-run", *LIGHT, *LOOSE)
    assert result.stdout.endswith("nothing was changed\n")
    tuned = records(tmp_path).tuned(tiny)
    assert tuned is not None
    assert (tuned.applied, tuned.variant) == (False, None)
    assert not (tmp_path / "home" / "models" / "tiny" / "variants").exists()
