"""Who may reach a host: keys, this machine only, or everybody if the operator says so."""

from pathlib import Path

import pytest

from rayhost.cli.access import access
from rayhost.errors import RayhostError
from rayhost.front import keys
from rayhost.front.request import Priority


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_without_keys_this_machine_may_ask(tmp_path: Path, host: str) -> None:
    entry = access([host], tmp_path / "keys.json", (), open_to_all=False)
    assert not entry.ring.configured
    assert entry.ceiling is Priority.HIGH
    assert entry.pages is not None
    assert host in entry.pages.names
    assert "no API keys" in entry.notice


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_without_keys_other_machines_are_not_listened_to(tmp_path: Path, host: str) -> None:
    with pytest.raises(RayhostError, match=f'{host} .*rayhost key add.*"open": true'):
        access([host], tmp_path / "keys.json", (), open_to_all=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])  # the latter through a proxy
def test_unless_the_profile_says_so_and_then_nobody_is_high(tmp_path: Path, host: str) -> None:
    entry = access([host], tmp_path / "keys.json", (), open_to_all=True)
    assert entry.ceiling is Priority.NORMAL
    assert entry.pages is None
    assert "everybody" in entry.notice


@pytest.mark.parametrize("open_to_all", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_with_keys_they_are_needed_everywhere(tmp_path: Path, host: str, open_to_all: bool) -> None:
    path = tmp_path / "keys.json"
    keys.write(path, ())
    entry = access([host], path, ("https://a.example",), open_to_all=open_to_all)
    assert entry.ring.configured
    assert entry.origins == ("https://a.example",)
    assert str(path) in entry.notice


def test_a_host_that_is_none_is_the_servers_to_refuse(tmp_path: Path) -> None:
    access("two..dots", tmp_path / "keys.json", (), open_to_all=False)


def test_a_bad_file_of_keys_is_no_host_without_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text("")
    with pytest.raises(RayhostError, match="not a file of API keys"):
        access("127.0.0.1", path, (), open_to_all=True)
