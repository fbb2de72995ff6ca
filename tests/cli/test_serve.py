"""`rayhost serve` where it cannot serve: each reason told in a line, before anything is done."""

import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.host import command, environment, tiny, write_profile
from tests.support.tiny_gguf import write_tiny_llama


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A model store that is not there yet."""
    return tmp_path / "home"


def refused(home: Path, *arguments: str | Path) -> list[str]:
    """Run `rayhost serve`, which fails, and return what it said to the operator."""
    run = subprocess.run(
        command("serve", *arguments),
        check=False,
        capture_output=True,
        text=True,
        env=environment(home),
        timeout=60,
    )
    assert (run.returncode, run.stdout) == (1, ""), run.stderr
    assert "Traceback" not in run.stderr
    return [line for line in run.stderr.splitlines() if not line.startswith("{")]  # the log


def test_a_taken_port_is_told_before_anything_is_downloaded(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (line,) = refused(home, "--port", str(port))
    assert line.startswith(f"rayhost: cannot listen on 127.0.0.1:{port}: ")
    assert not home.exists()


def test_a_host_that_is_none_is_one_line(home: Path) -> None:
    (line,) = refused(home, "--host", "two..dots", "--port", "0")
    assert line == "rayhost: cannot listen on two..dots: not a host name"
    assert not home.exists()


def test_every_mistake_of_a_profile_is_a_line(tmp_path: Path, home: Path) -> None:
    profile = write_profile(tmp_path / "p.json", [tiny(context=1, concurency=2)], queue=-1)
    lines = refused(home, "--profile", profile)
    assert len(lines) == 3
    for line, path in zip(lines, ("models[0]", "models[0]", "limits.queue"), strict=True):
        assert line.startswith(f"rayhost: {profile}: {path}")
    assert not home.exists()


def test_a_profile_that_is_not_there_is_one_line(tmp_path: Path, home: Path) -> None:
    (line,) = refused(home, "--profile", tmp_path / "none.json")
    assert line == f"rayhost: {tmp_path / 'none.json'}: no such file"


def test_a_model_file_that_is_not_there_is_one_line(tmp_path: Path, home: Path) -> None:
    profile = write_profile(tmp_path / "p.json", [tiny(file="none.gguf")])
    (line,) = refused(home, "--profile", profile, "--port", "0")
    assert line.startswith("rayhost: model 'tiny' failed: ")
    assert str(tmp_path / "none.gguf") in line  # sought beside the profile


def test_a_model_of_no_known_name_is_one_line(tmp_path: Path, home: Path) -> None:
    profile = write_profile(tmp_path / "p.json", [{"name": "nonesuch"}])
    (line,) = refused(home, "--profile", profile, "--port", "0")
    assert "unknown model 'nonesuch'" in line


def test_a_model_that_cannot_be_loaded_ends_a_host_that_has_no_other(
    tmp_path: Path, home: Path
) -> None:
    (tmp_path / "text.gguf").write_text("this is no model")
    profile = write_profile(tmp_path / "p.json", [tiny(file="text.gguf")])
    (line,) = refused(home, "--profile", profile, "--port", "0")
    assert line.startswith("rayhost: model 'tiny' failed: ")


def test_cpus_that_this_machine_has_not_are_one_line(tmp_path: Path, home: Path) -> None:
    write_tiny_llama(tmp_path / "tiny.gguf")
    profile = write_profile(tmp_path / "p.json", [tiny(cpus=[4000])])
    (line,) = refused(home, "--profile", profile, "--port", "0")
    assert line.startswith("rayhost: model 'tiny': cpus names [4000], but this process may use ")


def test_a_profile_that_no_memory_holds_is_refused_before_loading(
    tmp_path: Path, home: Path
) -> None:
    write_tiny_llama(tmp_path / "tiny.gguf")
    model = tiny(context=1 << 20, concurrency=64, batch=512, kv={"layout": "unified"})
    profile = write_profile(tmp_path / "p.json", [model])
    (line,) = refused(home, "--profile", profile, "--port", "0")
    assert line.startswith("rayhost: the profile needs ")
    assert "cells (1,048,576 tokens x 64, " in line
    assert 'It fits with tiny: "context": ' in line
