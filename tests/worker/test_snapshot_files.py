"""What of the snapshots survives on disk, who may read it, and what a bad disk can do: nothing."""

import os
import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from rayhost.ipc.messages import pack_tokens, unpack_tokens
from rayhost.worker.snapshot_files import SnapshotFiles
from rayhost.worker.snapshots import Snapshot

UNBOUNDED = 1 << 40
FRAME = 64  # bytes of a file beside tokens and state


def snapshot(first: int, size_bytes: int = 40, value_ms: float = 10.0) -> Snapshot:
    """Return a snapshot of two tokens of exactly this size."""
    state = np.arange(size_bytes - 8, dtype=np.uint8) + np.uint8(first)
    return Snapshot(pack_tokens([first, 7]), state, saved_ms=10.0, value_ms=value_ms)


def firsts(files: SnapshotFiles, limit_bytes: int = UNBOUNDED) -> list[int]:
    """Load everything; return the first token of each."""
    return [unpack_tokens(each.tokens)[0] for each in files.load_all(limit_bytes)]


def on_disk(directory: Path) -> int:
    """Return the bytes of all files."""
    return sum(path.lstat().st_size for path in directory.iterdir())


def only_file(directory: Path) -> Path:
    """Return the one file there is."""
    (path,) = directory.iterdir()
    return path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return where the files go; it is not there yet."""
    return tmp_path / "models" / "snapshots"


@pytest.fixture
def files(directory: Path) -> SnapshotFiles:
    """Return files of 1 MiB at most."""
    return SnapshotFiles(directory, 1 << 20, "key")


def test_what_was_saved_comes_back_the_same(files: SnapshotFiles, directory: Path) -> None:
    saved = snapshot(3, 5000, value_ms=70.0)
    assert files.save([saved]) == 1
    (loaded,) = SnapshotFiles(directory, 1 << 20, "key").load_all(UNBOUNDED)
    assert loaded.tokens == saved.tokens
    assert np.array_equal(loaded.state, saved.state)
    assert (loaded.saved_ms, loaded.value_ms, loaded.tier) == (10.0, 70.0, "disk")


def test_the_best_rank_is_loaded_first_and_as_much_as_fits(files: SnapshotFiles) -> None:
    files.save(
        [
            snapshot(1, 100, value_ms=10.0),
            snapshot(2, 100, value_ms=30.0),
            snapshot(3, 200, value_ms=40.0),
            snapshot(4, 50, value_ms=5.0),
        ]
    )
    assert firsts(files) == [2, 3, 1, 4]
    assert firsts(files, 300) == [2, 3]
    assert firsts(files, 299) == [2, 1, 4]
    assert firsts(files, 0) == []


def test_what_is_there_is_not_written_again_but_keeps_its_new_rank(
    files: SnapshotFiles, directory: Path
) -> None:
    files.save([snapshot(1), snapshot(2, value_ms=20.0)])
    inodes = {path.stat().st_ino for path in directory.iterdir()}
    assert firsts(files) == [2, 1]
    assert files.save([snapshot(1, value_ms=90.0), snapshot(2, value_ms=20.0)]) == 0
    assert {path.stat().st_ino for path in directory.iterdir()} == inodes
    assert firsts(files) == [1, 2]


def test_nothing_to_load_is_no_event(files: SnapshotFiles) -> None:
    with capture_logs() as lines:
        assert firsts(files) == []
    assert lines == []


def test_another_key_sees_nothing_and_removes_nothing_in_time_of_plenty(
    files: SnapshotFiles, directory: Path
) -> None:
    files.save([snapshot(1)])
    other = SnapshotFiles(directory, 1 << 20, "another key")
    assert firsts(other) == []
    other.save([snapshot(2)])
    assert (firsts(files), firsts(other)) == ([1], [2])


def age(directory: Path, seconds: int) -> None:
    """Make everything there this much older."""
    for path in directory.iterdir():
        then = path.lstat().st_mtime - seconds
        os.utime(path, (then, then))


def test_the_oldest_make_room_whatever_their_key(directory: Path) -> None:
    size = 40 + FRAME
    one, other = (SnapshotFiles(directory, 3 * size, key) for key in ("one", "other"))
    one.save([snapshot(1)])
    age(directory, 100)
    other.save([snapshot(2)])
    age(directory, 100)
    one.save([snapshot(3)])
    assert (sorted(firsts(one)), firsts(other)) == ([1, 3], [2])
    age(directory, 100)
    one.save([snapshot(4)])
    assert (sorted(firsts(one)), firsts(other)) == ([3, 4], [2])
    age(directory, 100)
    one.save([snapshot(3), snapshot(5)])
    assert (sorted(firsts(one)), firsts(other)) == ([3, 4, 5], [])


def test_what_is_asked_for_again_is_young_again(directory: Path) -> None:
    files = SnapshotFiles(directory, 3 * (40 + FRAME), "key")
    for first in (1, 2, 3):
        files.save([snapshot(first)])
        age(directory, 100)
    files.save([snapshot(1)])
    files.save([snapshot(4)])
    assert sorted(firsts(files)) == [1, 3, 4]


def test_the_first_ones_are_saved_where_not_all_fit(directory: Path) -> None:
    files = SnapshotFiles(directory, 2 * (40 + FRAME), "key")
    assert files.save([snapshot(1), snapshot(2, 500), snapshot(3), snapshot(4)]) == 2
    assert sorted(firsts(files)) == [1, 3]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"),
            st.lists(st.tuples(st.integers(0, 9), st.integers(8, 300)), max_size=6),
        ),
        max_size=6,
    ),
    st.integers(0, 1000),
)
def test_the_files_never_take_more_than_the_limit(
    saves: list[tuple[str, list[tuple[int, int]]]], limit: int
) -> None:
    with tempfile.TemporaryDirectory() as parent:
        directory = Path(parent, "snapshots")
        for key, sizes in saves:
            files = SnapshotFiles(directory, limit, key)
            files.save([snapshot(first, size) for first, size in sizes])
            assert on_disk(directory) <= limit
            here = firsts(files)
            for first, size in sizes[:1]:
                assert first in here or size + FRAME > limit


@contextmanager
def saved_file(content: Callable[[bytes], bytes]) -> Iterator[tuple[SnapshotFiles, Path]]:
    """Give a store with one file, of which the content was changed."""
    with tempfile.TemporaryDirectory() as parent:
        files = SnapshotFiles(Path(parent), 1 << 20, "key")
        files.save([snapshot(1)])
        path = only_file(Path(parent))
        path.write_bytes(content(path.read_bytes()))
        yield files, path


def assert_removed(files: SnapshotFiles, path: Path, reason: str) -> None:
    """Load; nothing may come of it but one line, and the file be gone."""
    with capture_logs() as lines:
        assert firsts(files) == []
    assert not path.exists()
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("snapshot removed", "warning")
    assert reason in line["reason"]


def test_a_truncated_file_is_removed_wherever_it_ends() -> None:
    for size in range(40 + FRAME):

        def cut(content: bytes, size: int = size) -> bytes:
            return content[:size]

        with saved_file(cut) as (files, path):
            assert_removed(files, path, "bytes" if size < FRAME else "checksum")


def test_a_flipped_bit_anywhere_is_found() -> None:
    for at in range(40 + FRAME):

        def flip(content: bytes, at: int = at) -> bytes:
            return content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]

        with saved_file(flip) as (files, path):
            assert_removed(files, path, "checksum")


def test_something_appended_is_found() -> None:
    with saved_file(lambda content: content + b"x") as (files, path):
        assert_removed(files, path, "checksum")


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=300))
def test_any_bytes_are_removed(garbage: bytes) -> None:
    with saved_file(lambda _: garbage) as (files, path):
        assert_removed(files, path, "")


def forged(at: int, value: bytes) -> Callable[[bytes], bytes]:
    """Put `value` at a place, and make the checksum right."""

    def change(content: bytes) -> bytes:
        body = content[:at] + value + content[at + len(value) : -16]
        return body + xxhash.xxh3_128_digest(body)

    return change


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (0, b"GGUF", "another key"),
        (7, b"\x02", "another key"),  # the format of another version
        (8, bytes(16), "another key"),
        (24, (1 << 63).to_bytes(8, "little"), "lengths"),
        (24, (9).to_bytes(8, "little") + (31).to_bytes(8, "little"), "lengths"),
        (24, (40).to_bytes(8, "little"), "lengths"),
        (24, (0).to_bytes(8, "little") + (40).to_bytes(8, "little"), "no tokens"),
        (24, (12).to_bytes(8, "little") + (28).to_bytes(8, "little"), "other tokens"),
        (48, pack_tokens([2, 7]), "other tokens"),
        (40, np.float64("nan").tobytes(), "nan ms"),
        (40, np.float64("inf").tobytes(), "inf ms"),
        (40, np.float64(-1.0).tobytes(), "-1.0 ms"),
    ],
)
def test_a_file_that_says_wrong_things_with_a_right_checksum_is_removed(
    at: int, value: bytes, reason: str
) -> None:
    with saved_file(forged(at, value)) as (files, path):
        assert_removed(files, path, reason)


def test_forging_nothing_leaves_a_good_file() -> None:
    with saved_file(forged(0, b"")) as (files, _):
        assert firsts(files) == [1]


def test_files_that_change_while_others_are_loaded_are_passed_over(
    files: SnapshotFiles, directory: Path
) -> None:
    files.save([snapshot(first, value_ms=99.0 - first) for first in range(5)])
    second, third, fourth = sorted(directory.iterdir(), key=lambda path: path.name[66:])[1:4][::-1]
    loading = files.load_all(UNBOUNDED)
    assert unpack_tokens(next(loading).tokens)[0] == 0
    second.unlink()
    os.truncate(third, 50)
    fourth.write_bytes(fourth.read_bytes() + b"x")
    with capture_logs() as lines:
        assert [unpack_tokens(each.tokens)[0] for each in loading] == [4]
    assert [(line["event"], line["file"]) for line in lines] == [
        ("snapshot not read", second.name),
        ("snapshot removed", third.name),
        ("snapshot removed", fourth.name),
    ]


def test_a_truncated_file_is_written_again(files: SnapshotFiles, directory: Path) -> None:
    files.save([snapshot(1)])
    os.truncate(only_file(directory), 50)
    assert files.save([snapshot(1)]) == 1
    assert firsts(files) == [1]


def test_a_good_file_is_loaded_beside_a_damaged_one(files: SnapshotFiles, directory: Path) -> None:
    files.save([snapshot(1)])
    os.truncate(only_file(directory), 50)
    files.save([snapshot(2)])
    assert firsts(files) == [2]


def test_an_enormous_file_is_not_read(files: SnapshotFiles, directory: Path) -> None:
    files.save([snapshot(1)])
    os.truncate(only_file(directory), 1 << 40)  # sparse
    assert firsts(files, 1 << 20) == []
    assert files.save([snapshot(1)]) == 1
    assert on_disk(directory) == 40 + FRAME


def test_only_the_owner_may_read(files: SnapshotFiles, directory: Path) -> None:
    before = os.umask(0)
    try:
        files.save([snapshot(1)])
    finally:
        os.umask(before)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert only_file(directory).stat().st_mode & 0o777 == 0o600


def test_a_directory_that_others_can_read_is_closed_to_them(
    files: SnapshotFiles, directory: Path
) -> None:
    directory.mkdir(parents=True)
    directory.chmod(0o755)
    files.save([snapshot(1)])
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_link_in_place_of_a_file_is_not_followed(
    files: SnapshotFiles, directory: Path, tmp_path: Path
) -> None:
    files.save([snapshot(1)])
    elsewhere = tmp_path / "elsewhere"
    path = only_file(directory).rename(elsewhere)
    name = directory / Path(f"{'0' * 32}-{'0' * 32}-1.kv")
    for link in (name, directory / name.name.replace("-1.kv", "-2.kv")):
        link.symlink_to(elsewhere)
    with capture_logs() as lines:
        assert firsts(files) == []
    assert {line["event"] for line in lines} == {"snapshot skipped"}
    content = path.read_bytes()
    SnapshotFiles(directory, 0, "key").save([])
    assert path.read_bytes() == content


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_only_has_the_name_of_a_snapshot_is_skipped(
    make: Callable[[Path], None], files: SnapshotFiles, directory: Path
) -> None:
    files.save([snapshot(1)])
    name = only_file(directory)
    name.unlink()
    make(name)
    with capture_logs() as lines:
        assert firsts(files) == []
        assert files.save([snapshot(2)]) == 1
    assert {line["event"] for line in lines} == {"snapshot skipped"}
    assert firsts(files) == [2]


def test_a_link_in_place_of_the_directory_is_refused(
    files: SnapshotFiles, directory: Path, tmp_path: Path
) -> None:
    directory.parent.mkdir()
    directory.symlink_to(tmp_path)
    with capture_logs() as lines:
        assert files.save([snapshot(1)]) == 0
        assert firsts(files) == []
    assert [line["event"] for line in lines] == ["snapshots not saved", "snapshots not loaded"]
    assert list(tmp_path.glob("*.kv")) == []


def test_another_users_directory_is_refused(
    files: SnapshotFiles, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.save([snapshot(1)])
    monkeypatch.setattr(os, "geteuid", lambda: directory.stat().st_uid + 1)
    with capture_logs() as lines:
        assert firsts(files) == []
        assert files.save([snapshot(2)]) == 0
    assert {line["reason"] for line in lines} == {"it belongs to another user"}


def test_other_files_in_the_directory_are_left_alone(directory: Path) -> None:
    directory.mkdir(parents=True)
    others = [directory / name for name in ("notes.txt", f"{'0' * 32}.kv", f"x{'0' * 32}-1.kv")]
    for path in others:
        path.write_bytes(bytes(1000))
    files = SnapshotFiles(directory, 40 + FRAME, "key")
    files.save([snapshot(1)])
    files.save([snapshot(2)])
    assert firsts(files) == [2]
    assert all(path.stat().st_size == 1000 for path in others)


def test_what_a_dead_writer_left_is_not_loaded_and_goes_with_the_oldest(directory: Path) -> None:
    files = SnapshotFiles(directory, 2 * (40 + FRAME), "key")
    files.save([snapshot(1)])
    path = only_file(directory)
    left = path.rename(f"{path}.4242.new")
    assert firsts(files) == []
    age(directory, 100)
    assert files.save([snapshot(1)]) == 1
    assert left.exists()
    files.save([snapshot(1), snapshot(2)])
    assert not left.exists()


def test_what_this_process_left_half_written_is_no_obstacle(
    files: SnapshotFiles, directory: Path
) -> None:
    files.save([snapshot(1)])
    path = only_file(directory)
    path.rename(f"{path}.{os.getpid()}.new")
    assert files.save([snapshot(1)]) == 1
    assert firsts(files) == [1]


def test_a_disk_that_takes_no_more_is_a_warning_and_leaves_no_half_file(
    files: SnapshotFiles, directory: Path
) -> None:
    files.save([snapshot(1)])
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    with capture_logs() as lines:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))
        try:
            written = files.save([snapshot(1), snapshot(2, 5000), snapshot(3)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
    assert written == 1  # what fits is saved beside what does not
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("snapshot not saved", "warning")
    ]
    assert on_disk(directory) == 2 * (40 + FRAME)
    assert sorted(firsts(files)) == [1, 3]


def test_a_file_that_another_worker_removes_meanwhile_costs_only_itself(
    files: SnapshotFiles, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.save([snapshot(1)])
    rename = os.rename

    def removed_before(old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        if not old.endswith(".new"):
            os.unlink(old, dir_fd=src_dir_fd)
        rename(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "rename", removed_before)
    with capture_logs() as lines:
        assert files.save([snapshot(1), snapshot(2)]) == 1
    assert [line["event"] for line in lines] == ["snapshot not saved"]
    assert firsts(files) == [2]


def test_a_place_that_cannot_be_a_directory_is_a_warning(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_bytes(b"x")
    with capture_logs() as lines:
        for place in (occupied, occupied / "below"):
            files = SnapshotFiles(place, 1 << 20, "key")
            assert files.save([snapshot(1)]) == 0
            assert firsts(files) == []
    assert len(lines) == 4
    assert occupied.read_bytes() == b"x"
