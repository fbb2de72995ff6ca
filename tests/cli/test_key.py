"""`rayhost key`: add, list, revoke."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from rayhost.cli.main import app
from rayhost.front import keys
from rayhost.front.keys import KeyRing


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYHOST_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "keys.json"


def run(*arguments: str) -> list[str]:
    result = CliRunner().invoke(app, ["key", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["key", *arguments])
    assert (result.exit_code, result.stdout) == (1, "")
    return result.stderr


def test_a_key_is_printed_once_and_lets_its_owner_in(path: Path) -> None:
    limits = ["--concurrency", "2", "--requests", "60", "--tokens", "9000"]
    (secret,) = run("add", "alice", "--ceiling", "high", "--weight", "3", *limits)
    key = KeyRing(path).find(secret)
    assert key is not None
    assert (key.name, key.ceiling, key.weight) == ("alice", "high", 3.0)
    assert (key.concurrency, key.requests_per_minute, key.tokens_per_minute) == (2, 60, 9000)
    lines = run("list")
    assert "alice" in lines[1]
    assert "9,000" in lines[1]
    assert secret not in "".join(lines)


def test_keys_are_added_to_those_there_are_and_revoked_by_name_or_id(path: Path) -> None:
    (alice,), (bob,) = run("add", "alice"), run("add", "bob")
    ring = KeyRing(path)
    run("revoke", "alice")
    assert ring.find(alice) is None
    found = ring.find(bob)
    assert found is not None
    run("revoke", found.id)
    assert keys.read(path) == ()
    assert ring.configured


def test_without_keys_the_list_says_where_they_would_be(path: Path) -> None:
    assert run("list") == [f"no keys: there is no {path}"]


def test_another_file_can_be_named(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    run("add", "alice", "--file", str(other))
    assert len(run("list", "--file", str(other))) == 2
    assert not path.exists()


def test_what_cannot_be_done_is_one_line(path: Path) -> None:
    run("add", "alice")
    before = path.read_bytes()
    assert "there is a key called 'alice'" in refused("add", "alice")
    assert "there is no key 'bob'" in refused("revoke", "bob")
    assert "not a valid key" in refused("add", "a b")
    assert "not a valid key" in refused("add", "bob", "--weight", "0")
    assert path.read_bytes() == before
    path.write_text("{")
    assert "not a file of API keys" in refused("list")
    assert "not a file of API keys" in refused("add", "bob")
    assert path.read_text() == "{"
