"""The shared memory of one worker incarnation: a sealed, anonymous memfd.

Invariant: the segment has no name and a size that nobody can change. A name would have to be
unlinked and, after a kill -9 of its owner, swept; a memfd goes with its last fd, whichever way the
processes end. The seals keep a hostile worker from truncating it, which would turn the front's next
access into SIGBUS. Space is allocated up front, as a page that cannot be had later is SIGBUS too.
Only `channel` uses this.

    0         64              4096                4096 + n            4096 + 2n
    | header  | status words  | front -> worker   | worker -> front   |
"""

import fcntl
import mmap
import os
import struct

from rayhost.errors import RayhostError
from rayhost.ipc.ring import check_ring_bytes

STATUS_BYTES = 4096
LAYOUT = 2  # raise with any change to the bytes of the header, the status words or the frames

_MAGIC = b"rayhost\0"
_HEADER = struct.Struct("=8sQQQ")  # magic, layout, ring bytes, generation
_STATUS_AT = 64  # a cache line of its own for the header
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class SegmentMismatch(RayhostError):
    """The fd is not a segment of this layout and generation."""


def allocate(generation: int, ring_bytes: int) -> int:
    """Create a segment with two rings of `ring_bytes` and return its fd, which the caller owns.

    Raises ValueError for a ring size or generation that cannot be, OSError (ENOSPC, ENOMEM) when
    the memory is not there.
    """
    check_ring_bytes(ring_bytes)
    if not 0 <= generation < 2**64:
        raise ValueError(f"generation {generation}: must fit in 64 bits")
    fd = os.memfd_create("rayhost-channel", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(fd, 0, STATUS_BYTES + 2 * ring_bytes)
        os.pwrite(fd, _HEADER.pack(_MAGIC, LAYOUT, ring_bytes, generation), 0)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _validated_ring_bytes(fd: int, generation: int) -> int:
    head = os.pread(fd, _HEADER.size, 0)
    if len(head) < _HEADER.size:
        raise SegmentMismatch(f"fd {fd} is no channel segment: only {len(head)} bytes")
    magic, layout, ring_bytes, found = _HEADER.unpack(head)
    if magic != _MAGIC:
        raise SegmentMismatch(f"fd {fd} is no channel segment: it starts with {magic!r}")
    if layout != LAYOUT:
        raise SegmentMismatch(f"channel segment has layout {layout}, this program {LAYOUT}")
    if found != generation:
        raise SegmentMismatch(f"channel segment is of generation {found}, not {generation}")
    size = os.fstat(fd).st_size
    if size != STATUS_BYTES + 2 * ring_bytes:
        raise SegmentMismatch(f"channel segment has {size} bytes for rings of {ring_bytes}")
    return int(ring_bytes)


class Segment:
    """A mapping of a segment. Does not own `fd`, nor the views once a caller took them.

    Raises SegmentMismatch when `fd` is not a segment of this layout and of `generation`.
    """

    def __init__(self, fd: int, generation: int) -> None:
        ring_bytes = _validated_ring_bytes(fd, generation)
        second = STATUS_BYTES + ring_bytes
        self._memory = mmap.mmap(fd, second + ring_bytes)
        with memoryview(self._memory) as whole:
            self.status = whole[_STATUS_AT:STATUS_BYTES]
            self.to_worker = whole[STATUS_BYTES:second]
            self.to_front = whole[second:]

    def close(self) -> None:
        """Unmap. Every view, and every cast or slice of one, must have been released."""
        self._memory.close()
