"""`rayhost plan`: what fits, told of this machine and of others, without loading anything."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from rayhost.baseline import cpu
from rayhost.baseline.calibration import Calibrations, Settings, Tuned, identity
from rayhost.baseline.prediction import work_of
from rayhost.cli.forecast import Plan
from rayhost.cli.main import app
from rayhost.front.state import MemoryState
from rayhost.governor.fit import kept_free
from rayhost.machine_share import system_part
from rayhost.models.catalog import ENTRIES
from rayhost.models.gguf import read_info
from rayhost.models.shape import shape_of
from rayhost.models.store import Store, StoredModel
from rayhost.profile import Governor
from tests.baseline import figures
from tests.cli import states
from tests.cli.admin import FakeControl, served
from tests.models.headers import LLAMA, entry, header
from tests.support.host import tiny, write_profile
from tests.support.tiny_gguf import write_tiny_llama

OUTLANDISH = ("inf", "-inf", "nan", "0", "-1", "1e300")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty model store, and nobody who runs but whom a test starts."""
    monkeypatch.setenv("RAYHOST_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setattr("rayhost.admin_socket.SERVICE_FOLDER", tmp_path / "service")
    return tmp_path / "home"


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


def plans(*arguments: str | Path) -> list[Plan]:
    result = run(*arguments, "--json")
    return msgspec.json.decode(result.stdout, type=list[Plan])


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        *(("--cores", cores, "expected a number from 0.1 to 4096") for cores in OUTLANDISH),
        ("--memory", "9" * 400 + "GiB", "is too large"),
        ("--memory", "512", "try 512MiB"),
        ("--memory", "many", "is no size"),
    ],
)
def test_no_machine_is_like_that(option: str, value: str, told: str) -> None:
    result = run(option, value)
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("rayhost: ")
    assert told in line


@pytest.mark.parametrize(("memory", "cores"), [("1B", "0.1"), ("1048576GiB", "4096")])
def test_the_least_and_the_largest_machine_can_be_planned_for(memory: str, cores: str) -> None:
    assert plans("smollm2-135m", "--memory", memory, "--cores", cores)


def test_every_model_of_the_catalog_can_be_planned_for_before_it_is_pulled(home: Path) -> None:
    found = plans(*(entry.name for entry in ENTRIES), "--memory", "2GiB", "--cores", "1")
    assert [plan.models[0].name for plan in found] == [entry.name for entry in ENTRIES]
    for plan in found:
        room = (2 << 30) - system_part(2 << 30)
        assert plan.needed <= plan.room == room - kept_free(room, Governor().headroom)
        assert not plan.models[0].pulled
    assert not home.exists()


def test_a_smaller_machine_gets_less() -> None:
    (large,) = plans("smollm2-135m", "--memory", "4GiB")
    (small,) = plans("smollm2-135m", "--memory", "512MiB")
    assert large.models[0].concurrency == 16
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


@pytest.mark.parametrize(("mib", "refused"), [(380, True), (512, False), (4096, False)])
def test_a_box_without_room_for_structured_output_says_so(mib: int, refused: bool) -> None:
    arguments = ("smollm2-135m", "--memory", f"{mib}MiB")
    (plan,) = plans(*arguments)
    assert plan.models[0].constrained_refused is refused
    assert ("they are refused" in run(*arguments).stdout) is refused


def test_what_does_not_fit_is_told_and_fails() -> None:
    result = run("gemma3-270m", "--memory", "400MiB")
    assert result.exit_code == 1
    assert "does not fit: the profile needs " in result.stdout
    assert "No setting fits" in result.stdout


def test_people_get_a_line_for_each_part() -> None:
    result = run("smollm2-135m", "--memory", "1GiB", "--cores", "1")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "smollm2-135m: 1,024 MiB of memory, 863 for rayhost, 1 cores"
    assert lines[1].startswith("  smollm2-135m (not pulled): context 2,048, concurrency 8, ")
    assert lines[2].split() == ["weights", "92", "MiB"]
    assert "of the room" in lines[-1]


def test_a_model_that_nobody_knows_is_an_error() -> None:
    assert run("nonesuch").exit_code == 1


def test_what_cannot_be_planned_for_hides_none_of_the_others(tmp_path: Path) -> None:
    evil = tmp_path / "evil.gguf"
    evil.write_bytes(header(LLAMA, entry("llama.block_count", 5, struct.pack("<i", -3))))
    targets = ("smollm2-135m", "nonesuch", f"file:{evil}", "gemma3-270m", "--memory", "2GiB")
    result = run(*targets)
    assert result.exit_code == 1
    told = [line.split(":")[0] for line in result.stdout.splitlines() if line[:1].strip()]
    assert told == ["smollm2-135m", "gemma3-270m"]
    unknown, absurd = result.stderr.splitlines()
    assert unknown.startswith("rayhost: ")
    assert "nonesuch" in unknown
    assert f"{evil}: llama.block_count is -3; " in absurd
    as_json = run(*targets, "--json")
    assert (as_json.exit_code, as_json.stderr) == (1, result.stderr)
    found = msgspec.json.decode(as_json.stdout, type=list[Plan])
    assert [plan.profile for plan in found] == told


def test_with_nothing_known_programs_still_get_a_list() -> None:
    assert run("nonesuch").stdout == ""
    assert plans("nonesuch") == []


def test_a_file_of_weights_is_planned_for_as_a_source_and_is_no_profile(tmp_path: Path) -> None:
    file = write_tiny_llama(tmp_path / "tiny.gguf")
    (plan,) = plans(f"file:{file}", "--memory", "1GiB")
    assert plan.models[0].needed
    bare = run(file)
    assert bare.exit_code == 1
    assert f"of a file the name is file:{file}" in bare.stderr


@pytest.fixture
def benched(tmp_path: Path, home: Path) -> Path:
    """A profile whose model was benched here with one and two threads."""
    file = write_tiny_llama(tmp_path / "tiny.gguf")
    stored = StoredModel("tiny", file, "file:tiny.gguf", None, file.stat().st_size)
    measured = figures.model("tiny", identity(stored), work_of(shape_of(read_info(file))))
    Calibrations(home, cpu.host()).save_baseline(figures.baseline(measured))
    return write_profile(tmp_path / "p.json", [tiny(threads="auto")])


def test_a_speed_that_was_measured_with_as_many_cores_is_told_as_measured(benched: Path) -> None:
    ((one,), (two,)) = (plans(benched, "--cores", cores)[0].models for cores in ("1", "2"))
    for row, threads in ((one, 1), (two, 2)):
        speed = row.tokens_s
        assert speed is not None
        assert (speed.prefill, speed.one) == (400 * threads, 50 * threads)
        assert (speed.measured, speed.sequences, speed.record) == (True, 4, "tiny")
    assert "tokens/s measured here       800 prompt, 100 generated alone, " in (
        run(benched, "--cores", "2").stdout
    )


@pytest.mark.parametrize(("cores", "prompt", "alone"), [("0.5", 200, 25), ("4", 1600, 100)])
def test_for_other_cores_it_is_scaled_and_says_so(
    benched: Path, cores: str, prompt: int, alone: int
) -> None:
    told = run(benched, "--cores", cores).stdout
    assert f"tokens/s predicted           {prompt:,} prompt, {alone} generated alone, " in told
    assert "from the bench of tiny" in told


def test_a_model_that_is_not_pulled_is_scaled_from_the_nearest_that_was_benched(
    benched: Path,
) -> None:
    names = [entry.name for entry in ENTRIES]
    found = [plan.models[0] for plan in plans(*names, "--memory", "2GiB", "--cores", "1")]
    speeds = {row.name: row.tokens_s for row in found}
    for speed in speeds.values():
        assert speed is not None
        assert (speed.measured, speed.record) == (False, "tiny")
        assert speed.prefill
    embeds = speeds["all-minilm-l6-v2"]
    assert embeds is not None
    assert embeds.one is None
    told = run("all-minilm-l6-v2", "--memory", "2GiB").stdout
    assert " prompt, from the bench of tiny, roughly: it is Q4_0" in told


def test_the_speed_of_a_tuned_file_is_never_told_as_measured(
    benched: Path, tmp_path: Path, home: Path
) -> None:
    file = tmp_path / "tiny.gguf"
    stored = StoredModel("tiny", file, "file:tiny.gguf", None, file.stat().st_size)
    variant = Store(home).keep_variant("tiny", Path(shutil.copy(file, tmp_path / "variant")))
    tuned = Tuned(
        identity(stored), "latency", 1, 1.5, Settings(), variant, "Q4_0", "2026-01-01", True
    )
    Calibrations(home, cpu.host()).save_tuned("tiny", tuned)
    ((row,),) = (plan.models for plan in plans(benched, "--cores", "2"))
    assert row.tokens_s is not None
    assert (row.tokens_s.measured, row.tokens_s.one) == (False, 100)  # as many bytes


def test_without_any_bench_the_command_is_named() -> None:
    assert "not known: `rayhost bench` gives a figure" in run("smollm2-135m").stdout


MIB = 1 << 20
# What a host says that fills its group: from outside it looks as if nothing fitted.
FULL = MemoryState(
    limit_bytes=512 * MIB, used_bytes=500 * MIB, ours_bytes=300 * MIB, allowed_bytes=280 * MIB,
    cores=0.5,
)  # fmt: skip
KEPT_FREE = int(Governor().headroom * 512 * MIB)


def listening(folder: Path, **listen: object) -> Path:
    write_tiny_llama(folder / "tiny.gguf")
    path = folder / "p.json"
    path.write_text(json.dumps({"models": [tiny()], "listen": listen}))
    return path


@pytest.mark.parametrize(
    ("listen", "serves", "asked"),
    [
        ({}, ["tiny"], True),  # the same models, at whatever port
        ({"port": 9999}, ["tiny", "gone"], True),  # the profile was changed since
        ({"port": 8080}, ["tiny", "gone"], False),
        ({"port": 9999}, ["other"], False),
    ],
)
def test_a_profile_that_is_served_is_planned_with_what_its_host_sees(
    tmp_path: Path, listen: dict[str, Any], serves: list[str], asked: bool
) -> None:
    url = "http://127.0.0.1:9999"
    path = listening(tmp_path, **listen)
    state = states.host(*map(states.model, serves), url=url, memory=FULL)
    with served(tmp_path / "run" / "1.sock", FakeControl(state)):
        (plan,) = plans(path)
        told = run(path).stdout.splitlines()[0]
        (described,) = plans(path, "--memory", "2GiB")
    assert described.host is None
    if asked:
        assert (plan.host, plan.cores) == (url, 0.5)
        limit, kept = 512 * MIB, kept_free(512 * MIB, Governor().headroom)
        assert (plan.limit, plan.room) == (limit, 280 * MIB + KEPT_FREE - kept)
        assert ": 512 MiB of memory, " in told
        assert told.endswith(f" 0.5 cores, as the running host at {url} has it")
    else:
        assert plan.host is None
        assert "running host" not in told


def test_the_host_at_the_socket_that_the_profile_names_is_asked(tmp_path: Path) -> None:
    path = listening(tmp_path, admin_socket="own.sock")
    other = FakeControl(states.host(states.model(), url="http://other", memory=FULL))
    with served(tmp_path / "run" / "1.sock", other):
        assert plans(path)[0].host is None
        own = FakeControl(states.host(url="http://own", memory=FULL))
        with served(tmp_path / "own.sock", own):
            assert plans(path)[0].host == "http://own"


def test_a_host_that_has_not_looked_at_memory_yet_is_not_asked(tmp_path: Path) -> None:
    path = listening(tmp_path)
    with served(tmp_path / "run" / "1.sock", FakeControl(states.host(states.model()))):
        assert plans(path)[0].host is None
