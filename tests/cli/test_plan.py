"""`rayhost plan`: what fits, told of this machine and of others, without loading anything."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from rayhost.baseline import cpu
from rayhost.baseline.calibration import Calibrations, identity
from rayhost.cli.forecast import SYSTEM, Plan
from rayhost.cli.main import app
from rayhost.errors import RayhostError
from rayhost.models.catalog import ENTRIES
from rayhost.models.store import StoredModel
from rayhost.sizes import parse_size
from tests.baseline import figures
from tests.support.host import tiny, write_profile
from tests.support.tiny_gguf import write_tiny_llama


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty model store."""
    monkeypatch.setenv("RAYHOST_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


def plans(*arguments: str | Path) -> list[Plan]:
    result = run(*arguments, "--json")
    return msgspec.json.decode(result.stdout, type=list[Plan])


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1GiB", 1 << 30),
        ("768 MiB", 768 << 20),
        ("1.5g", 3 << 29),
        ("512M", 512 << 20),
        ("4096", 4096),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "many", "1TiB", "-1", "1 2"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(RayhostError, match="is no size"):
        parse_size(text)
    assert run("--memory", text).exit_code in {1, 2}


def test_every_model_of_the_catalog_can_be_planned_for_before_it_is_pulled(home: Path) -> None:
    found = plans(*(entry.name for entry in ENTRIES), "--memory", "2GiB", "--cores", "1")
    assert [plan.models[0].name for plan in found] == [entry.name for entry in ENTRIES]
    for plan in found:
        assert plan.needed <= plan.room == (2 << 30) - SYSTEM
        assert not plan.models[0].pulled
    assert not home.exists()


def test_a_smaller_machine_gets_less() -> None:
    (large,) = plans("smollm2-135m", "--memory", "4GiB")
    (small,) = plans("smollm2-135m", "--memory", "512MiB")
    assert large.models[0].concurrency == 8
    assert (small.models[0].context, small.models[0].concurrency) == (2048, 2)


def test_the_parts_make_the_sum() -> None:
    (plan,) = plans("smollm2-135m", "--memory", "1GiB")
    (row,) = plan.models
    parts = row.weights + row.weights_copied + row.kv + row.compute + row.snapshots
    parts += row.process + row.children
    assert parts == row.needed
    assert plan.front + row.needed == plan.needed


def test_a_profile_is_planned_with_what_it_fixes(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "tiny.gguf")
    path = write_profile(tmp_path / "p.json", [tiny(context=256, concurrency=3)])
    (plan,) = plans(path)
    (row,) = plan.models
    assert (row.pulled, row.context, row.concurrency) == (True, 256, 3)


def test_what_does_not_fit_is_told_and_fails() -> None:
    result = run("gemma3-270m", "--memory", "400MiB")
    assert result.exit_code == 1
    assert "does not fit: the profile needs " in result.stdout
    assert "No setting fits" in result.stdout


def test_people_get_a_line_for_each_part() -> None:
    result = run("smollm2-135m", "--memory", "1GiB", "--cores", "1")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "smollm2-135m: 1,024 MiB of memory, 928 for rayhost, 1 cores"
    assert lines[1].startswith("  smollm2-135m (not pulled): context 2,048, concurrency 8, ")
    assert lines[2].split() == ["weights", "92", "MiB"]
    assert "of the room" in lines[-1]


def test_a_model_that_nobody_knows_is_an_error() -> None:
    assert run("nonesuch").exit_code == 1


def test_measured_speeds_are_shown_for_the_machine_that_they_are_of(
    tmp_path: Path, home: Path
) -> None:
    file = write_tiny_llama(tmp_path / "tiny.gguf")
    stored = StoredModel("tiny", file, "file:tiny.gguf", None, file.stat().st_size)
    measured = figures.model("tiny", identity(stored))
    Calibrations(home, cpu.host()).save_baseline(figures.baseline(measured))
    profile = write_profile(tmp_path / "p.json", [tiny()])
    (here,), (elsewhere,) = plans(profile), plans(profile, "--cores", "64")
    alone = measured.find("generate", 1)
    speed = here.models[0].tokens_s
    assert alone is not None
    assert speed is not None
    assert (speed.one, speed.sequences) == (alone.tokens_s.median, 4)
    assert elsewhere.models[0].tokens_s is None
    assert "tokens/s measured here" in run(profile).stdout
