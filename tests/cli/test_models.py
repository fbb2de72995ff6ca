"""`rayhost models`: everything stored, everything known, and what is wrong with any of it."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from rayhost.cli.models import models
from rayhost.models.store import Store
from tests.support.tiny_gguf import write_tiny_llama
from tests.support.wheel import offline, write_wheel


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store that holds `good` and `bad`, of which `bad` was changed since."""
    tiny = write_tiny_llama(tmp_path / "tiny.gguf", context=1536).read_bytes()
    write_wheel(tmp_path / "links", "tiny-model", "1.0", {"t/t.gguf": tiny})
    offline(monkeypatch, str(tmp_path / "links"))
    monkeypatch.setenv("RAYHOST_HOME", str(tmp_path / "home"))
    store = Store(tmp_path / "home")
    store.pull("good", "pypi:tiny-model==1.0")
    store.pull("bad", "pypi:tiny-model==1.0").path.write_bytes(b"changed")
    return store


def run(*arguments: str) -> str:
    app = typer.Typer()
    app.command()(models)
    result = CliRunner().invoke(app, [*arguments], env={"COLUMNS": "240"})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json_has_every_model_with_its_facts(store: Store) -> None:
    found = {row["name"]: row for row in json.loads(run("--json"))}
    good = store.find("good")
    assert good is not None
    assert found["good"] == {
        "name": "good",
        "state": "stored",
        "size_bytes": good.size_bytes,
        "quantization": "F32",
        "context": 1536,
        "parameters": 118_080,
        "chat": True,
        "license": None,
        "source": "pypi:tiny-model==1.0",
        "path": str(good.path),
    }
    assert found["smollm2-135m"]["state"] == "not pulled"
    assert found["smollm2-135m"]["size_bytes"] == 98_362_432
    assert found["smollm2-135m"]["license"] == "Apache-2.0"


@pytest.mark.usefixtures("store")
def test_a_damaged_model_hides_no_other_and_says_what_cures_it() -> None:
    found = {row["name"]: row for row in json.loads(run("--json"))}
    assert found["bad"]["state"].endswith("run: rayhost pull bad")
    assert found["good"]["state"] == "stored"


@pytest.mark.usefixtures("store")
def test_the_table_has_a_line_for_each() -> None:
    lines = run().splitlines()
    assert lines[0].split() == ["name", "size", "quantization", "context", "source", "path"]
    good = next(line for line in lines if line.startswith("good"))
    assert good.split()[:6] == ["good", "0.5", "MB", "F32", "1,536", "pypi:tiny-model==1.0"]
    assert any(line.startswith("gemma3-270m") and "not pulled" in line for line in lines)


def test_an_empty_store_lists_the_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYHOST_HOME", str(tmp_path / "none"))
    names = [row["name"] for row in json.loads(run("--json"))]
    assert names == ["all-minilm-l6-v2", "gemma3-270m", "smollm2-135m"]
    assert not (tmp_path / "none").exists()
