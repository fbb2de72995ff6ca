"""The segment: sealed, nameless, and only attached to by those it was made for."""

import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayhost.ipc.segment import LAYOUT, STATUS_BYTES, Segment, SegmentMismatch, allocate

RING = 4096


@pytest.fixture
def fd() -> Iterator[int]:
    fd = allocate(7, RING)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("size", [0, STATUS_BYTES, STATUS_BYTES + 2 * RING + 1, 2**20])
def test_nobody_can_change_its_size(fd: int, size: int) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(fd, size)
    assert os.fstat(fd).st_size == STATUS_BYTES + 2 * RING


def test_nobody_can_add_a_seal(fd: int) -> None:
    with pytest.raises(PermissionError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_it_is_allocated_and_not_sparse(fd: int) -> None:
    assert os.fstat(fd).st_blocks * 512 >= STATUS_BYTES + 2 * RING


def test_it_has_no_name(fd: int) -> None:
    assert os.fstat(fd).st_nlink == 0
    assert os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:")
    assert not [p for p in Path("/dev/shm").iterdir() if "rayhost" in p.name]


def test_two_mappings_see_the_same_regions_without_overlap(fd: int) -> None:
    one, other = Segment(fd, 7), Segment(fd, 7)
    try:
        for value, region in enumerate(("status", "to_worker", "to_front"), start=1):
            view = getattr(one, region)
            view[:] = bytes([value]) * view.nbytes
        assert set(other.status) == {1}
        assert set(other.to_worker) == {2}
        assert set(other.to_front) == {3}
        assert other.to_worker.nbytes == other.to_front.nbytes == RING
        Segment(fd, 7).status.release()  # the header is not in any region
    finally:
        for segment in (one, other):
            for view in (segment.status, segment.to_worker, segment.to_front):
                view.release()
            segment.close()


def test_another_generation_is_refused(fd: int) -> None:
    with pytest.raises(SegmentMismatch, match="of generation 7, not 8"):
        Segment(fd, 8)


def test_another_layout_is_refused(fd: int) -> None:
    os.pwrite(fd, struct.pack("=Q", LAYOUT + 1), 8)
    with pytest.raises(SegmentMismatch, match=f"has layout {LAYOUT + 1}, this program {LAYOUT}"):
        Segment(fd, 7)


def test_a_ring_size_that_contradicts_the_segment_is_refused(fd: int) -> None:
    os.pwrite(fd, struct.pack("=Q", RING * 1024), 16)
    with pytest.raises(SegmentMismatch, match=f"has {STATUS_BYTES + 2 * RING} bytes"):
        Segment(fd, 7)


@pytest.mark.parametrize("content", [b"", b"short", bytes(STATUS_BYTES + 2 * RING)])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with path.open("rb") as other, pytest.raises(SegmentMismatch, match="no channel segment"):
        Segment(other.fileno(), 7)


@pytest.mark.parametrize("generation", [-1, 2**64])
def test_a_generation_beyond_64_bits_is_refused(generation: int) -> None:
    with pytest.raises(ValueError, match="generation"):
        allocate(generation, RING)


def test_a_failed_allocation_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(fd: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_space)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="No space"):
        allocate(7, RING)
    assert os.listdir("/proc/self/fd") == before
