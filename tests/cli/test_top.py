"""`rayhost top` as a program: one frame from a socket, and what it says when there is none."""

import subprocess
import sys
from pathlib import Path

import pytest

from rayhost import admin_socket
from tests.cli.admin import FakeControl, served


def top(*arguments: str, runtime: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "rayhost", "top", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={"RUNTIME_DIRECTORY": str(runtime), "COLUMNS": "80"},
        timeout=60,
    )


def test_once_prints_one_frame_of_the_only_host(tmp_path: Path) -> None:
    with served(tmp_path / "8080.sock", FakeControl()):
        result = top("--once", runtime=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "rayhost 1.2.3" in result.stdout
    assert "tiny" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_without_a_host_it_says_what_to_do(tmp_path: Path) -> None:
    result = top("--once", runtime=tmp_path)
    assert result.returncode == 1
    assert "no running host" in result.stderr
    assert "rayhost serve" in result.stderr


def test_several_hosts_are_listed_to_choose_from(tmp_path: Path) -> None:
    first, second = tmp_path / "1.sock", tmp_path / "2.sock"
    with served(first, FakeControl()), served(second, FakeControl()):
        result = top("--once", runtime=tmp_path)
        assert result.returncode == 1
        assert f"{first}, {second}" in result.stderr
        assert top("--once", "--socket", str(second), runtime=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("method", "target", "status", "answer"),
    [
        ("POST", "/admin/cache/purge", 200, b'{"purged":42}'),
        ("POST", "/admin/models/org/tiny/restart", 200, b'{"model":"org/tiny","state":"ready"}'),
        ("POST", "/admin/models/gone/restart", 404, b"model_not_found"),
        ("POST", "/admin/models/broken/restart", 503, b"restart_failed"),
        ("GET", "/admin/cache/purge", 405, b"method_not_allowed"),
        ("GET", "/v1/models", 404, b"not_found"),
    ],
)
def test_the_admin_socket_answers(
    tmp_path: Path, method: str, target: str, status: int, answer: bytes
) -> None:
    path, control = tmp_path / "a.sock", FakeControl()
    with served(path, control):
        got, body = admin_socket.ask(path, method, target)
    assert got == status
    assert answer in body
    assert control.restarted == (["org/tiny"] if "tiny" in target else [])
