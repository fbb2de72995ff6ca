"""A counter that wakes: one nonblocking eventfd.

Invariant: whatever was stored in shared memory before `ring` is visible to whoever gets a count
from `take`, on any architecture, because both pass through the kernel's lock on the counter.
`channel` rings and takes; event loops wait for `fd` to become readable.
"""

import os

from rayhost.ipc.ring import CorruptFrame


class Doorbell:
    """Owns `fd`. Counts add up until taken; no ring is ever lost."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def ring(self, n: int) -> None:
        """Add `n` to the counter.

        Raises CorruptFrame when the counter is full: counts of frames and bytes in a ring cannot
        fill 64 bits, so the peer wrote to it.
        """
        try:
            os.eventfd_write(self.fd, n)
        except BlockingIOError as full:
            raise CorruptFrame("doorbell counter is full") from full

    def take(self) -> int:
        """Return the counter and set it to 0; 0 when nobody rang."""
        try:
            return os.eventfd_read(self.fd)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Close the fd. Harmless when closed."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
