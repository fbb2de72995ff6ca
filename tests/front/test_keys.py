"""The file of API keys: what is in it, who it lets in, and what becomes of changes."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from rayhost.errors import RayhostError
from rayhost.front import keys
from rayhost.front.keys import Key, KeyRing
from tests.support.waiting import eventually


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def put(path: Path, *known: Key) -> None:
    with keys.changing(path):
        keys.write(path, known)


def test_the_file_has_no_key_and_only_its_owner_reads_it(path: Path) -> None:
    key, secret = keys.create("alice")
    put(path, key)
    assert secret.split("-", 2)[2] not in path.read_text()
    assert hashlib.sha256(secret.encode()).hexdigest() in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert keys.read(path) == (key,)


def test_two_keys_have_nothing_in_common() -> None:
    (one, first), (other, second) = keys.create("a"), keys.create("a")
    assert one.id != other.id
    assert first.split("-", 2)[2] != second.split("-", 2)[2]


def test_a_key_is_found_by_its_secret_alone(path: Path) -> None:
    (alice, secret), (bob, other) = keys.create("alice"), keys.create("bob")
    put(path, alice, bob)
    ring = KeyRing(path)
    assert ring.find(secret) == alice
    assert ring.find(other) == bob
    for wrong in (
        "",
        "none",
        secret[:-1],
        secret + "x",
        secret.replace(alice.id, bob.id),
        secret.replace(alice.id, "aaaaaaaa"),
        alice.sha256,
        "é" * 55,
        "\udcff",
    ):
        assert ring.find(wrong) is None


def test_without_a_file_no_key_is_needed_and_none_is_known(path: Path) -> None:
    ring = KeyRing(path)
    assert not ring.configured
    assert ring.find(keys.create("a")[1]) is None


def test_changes_are_seen_at_once(path: Path) -> None:
    ring = KeyRing(path)
    (alice, secret), (bob, other) = keys.create("alice"), keys.create("bob")
    put(path, alice)
    assert ring.configured
    assert ring.find(secret) == alice
    put(path, alice, bob)
    assert ring.find(other) == bob
    put(path, bob)
    assert ring.find(secret) is None
    put(path)
    assert ring.configured
    assert ring.find(other) is None


def test_a_file_that_breaks_or_goes_away_changes_nothing(path: Path) -> None:
    alice, secret = keys.create("alice")
    put(path, alice)
    ring = KeyRing(path)
    with capture_logs() as lines:
        path.write_text("{")
        assert ring.find(secret) == alice
        path.unlink()
        assert ring.configured
        assert ring.find(secret) == alice
    assert [line["log_level"] for line in lines] == ["error", "error"]
    put(path)
    assert ring.find(secret) is None


@pytest.mark.parametrize(
    "appear",
    [
        lambda path: path.write_text("{"),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to(path),  # cannot even be looked at
    ],
    ids=["malformed", "unreadable", "unreachable"],
)
def test_a_file_that_appears_and_cannot_be_read_lets_nobody_in(
    path: Path, appear: Callable[[Path], object]
) -> None:
    ring = KeyRing(path)
    with capture_logs() as lines:
        appear(path)
        for _ in range(3):
            assert ring.configured
            assert ring.find(keys.create("a")[1]) is None
    assert [line["log_level"] for line in lines] == ["error"], "told once"
    path.rmdir() if path.is_dir() else path.unlink()
    assert ring.configured, "whoever took it away"
    alice, secret = keys.create("alice")
    put(path, alice)
    assert ring.find(secret) == alice


def test_a_read_that_failed_is_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, secret = keys.create("alice")
    put(path, alice)
    ring = KeyRing(path)
    put(path)

    def fails(_path: Path) -> None:
        raise RayhostError("too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(keys, "read", fails)
        assert ring.find(secret) == alice
    assert ring.find(secret) is None


def test_a_change_that_keeps_size_and_time_is_seen(path: Path) -> None:
    (alice, secret), (carol, other) = keys.create("alice"), keys.create("carol")
    put(path, carol)
    text = path.read_bytes()
    put(path, alice)
    before = path.stat()
    ring = KeyRing(path)

    def changed() -> bool:
        path.write_bytes(text)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        return path.stat().st_ctime_ns != before.st_ctime_ns

    eventually(changed, "the kernel's clock going on")
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert ring.find(other) == carol
    assert ring.find(secret) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"keys": [{"id": "aaaaaaaa"}]}',
        '{"keys": [], "more": 1}',
        '{"keys": [{"id": "aaaaaaaa", "name": "a", "sha256": "00"}]}',
        "\xff",
    ],
)
def test_a_bad_file_is_refused_by_its_name(path: Path, text: str) -> None:
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(RayhostError, match=r"keys\.json: not a file of API keys"):
        KeyRing(path)


@pytest.mark.parametrize("same", ["id", "name"])
def test_two_keys_that_could_be_mistaken_are_refused(path: Path, same: str) -> None:
    one, other = keys.create("a")[0], keys.create("b")[0]
    put(path, one, msgspec.structs.replace(other, **{same: getattr(one, same)}))
    with pytest.raises(RayhostError, match="the same id or name"):
        keys.read(path)


def test_an_invalid_key_is_not_written(path: Path) -> None:
    for wrong in ({"weight": -1.0}, {"name": "a b"}, {"concurrency": 0}):
        with pytest.raises(RayhostError, match="not a valid key"):
            put(path, msgspec.structs.replace(keys.create("a")[0], **wrong))
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RayhostError, match="cannot be written"):
        put(tmp_path / "keys.json")


def test_a_file_that_is_there_keeps_its_owner_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys.write(path, ())
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 0, 12345)
    before = path.stat()
    keys.write(path, (keys.create("a")[0],))
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )
    assert after.st_ino != before.st_ino, "it is replaced, not written to"
