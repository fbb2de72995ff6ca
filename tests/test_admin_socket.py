"""The admin socket's path, its mode, and whose it is."""

import os
import socket
import stat
from pathlib import Path

import pytest

from rayhost import admin_socket
from rayhost.errors import RayhostError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_folder_is_what_the_system_made_for_us_else_one_of_our_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/rayhost:/run/other")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert admin_socket.default_path(8080) == Path("/run/rayhost/8080.sock")
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    assert admin_socket.default_path(8080) == Path("/run/user/7/rayhost/8080.sock")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert admin_socket.folder().name == f"rayhost-{os.getuid()}"


def test_only_its_user_can_open_it_and_it_goes_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "own" / "a.sock"
    with admin_socket.listening(path):
        assert mode(path) == 0o600
        assert mode(path.parent) == 0o700
    assert not path.exists()


def test_the_socket_of_a_host_that_was_killed_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    with admin_socket.listening(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_sockets_of_other_killed_hosts_are_swept_from_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    (tmp_path / "note.sock").write_text("no socket")
    with (
        socket.socket(socket.AF_UNIX) as killed,
        admin_socket.listening(admin_socket.default_path(2)),
    ):
        killed.bind(str(tmp_path / "1.sock"))
        with admin_socket.listening(admin_socket.default_path(3)):
            assert {path.name for path in tmp_path.iterdir()} == {"2.sock", "3.sock", "note.sock"}


def test_the_socket_of_a_running_host_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with (
        admin_socket.listening(path),
        pytest.raises(RayhostError, match=r"a\.sock: another rayhost"),
        admin_socket.listening(path),
    ):
        pass


def test_a_file_that_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    path.write_text("precious")
    with pytest.raises(RayhostError, match="cannot make"), admin_socket.listening(path):
        pass
    assert path.read_text() == "precious"


def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with (
        pytest.raises(RayhostError, match="others can write"),
        admin_socket.listening(tmp_path / "a.sock"),
    ):
        pass


def test_a_path_that_the_kernel_cannot_hold_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(RayhostError, match="at most 92 bytes"),
        admin_socket.listening(tmp_path / ("a" * 108)),
    ):
        pass


def test_only_hosts_that_answer_are_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    assert admin_socket.running() == []
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(tmp_path / "1.sock"))
    with admin_socket.listening(admin_socket.default_path(2)):
        assert admin_socket.running() == [tmp_path / "2.sock"]


def test_asking_where_nobody_listens_names_the_socket(tmp_path: Path) -> None:
    with pytest.raises(RayhostError, match=r"no\.sock: no rayhost answers"):
        admin_socket.ask(tmp_path / "no.sock", "GET", "/admin/state")
