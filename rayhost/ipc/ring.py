"""One direction of the channel: a byte ring with one writer and one reader, and no fds.

Invariant: no cursor is shared. The writer counts free bytes by the credits it is handed, the reader
reads a frame only when told that one was published; both derive positions from frame lengths alone.
Only `channel` uses this; either half belongs to one process and is not thread-safe.

    0               8           12     13      14        16              24
    | checksum u64  | length u32 | kind | flags | 0 (u16) | request id u64 | payload ... | pad to 16
                    '------------- covered by the checksum ---------------------------'

The checksum is xxh3_64 seeded with the ring's key (generation and direction) plus the frame's
number, so a frame of another incarnation, of the other ring, or left over from an earlier lap of
this ring is as detectable as a torn one. A frame never wraps: one that meets the end of the ring
is cut there and flagged MORE, and an end too short for a header belongs to the frame before it.
"""

import struct

from xxhash import xxh3_64_intdigest as digest

ALIGNMENT = 16
HEADER_BYTES = 24
MIN_RING_BYTES = 128
MAX_LENGTH = 2**32 - 1
MORE = 1  # flag: the message goes on in the next frame

_HEADER = struct.Struct("=QIBB2xQ")  # checksum (set afterwards), length, kind, flags, request id
_CHECKSUM_AND_LENGTH = struct.Struct("=QI")
_COVERED = struct.Struct("=4xBB2xQ")  # kind, flags, request id, from the covered bytes
_COVERED_AT = 8  # where the covered bytes start in a frame
_PAYLOAD_AT = HEADER_BYTES - _COVERED_AT  # where the payload starts in the covered bytes


class CorruptFrame(Exception):
    """The peer wrote what no correct peer writes: it is condemned, and so is the channel to it."""


def ring_key(generation: int, direction: str) -> int:
    """Return the checksum seed of the first frame in one direction of one incarnation."""
    return digest(direction.encode(), generation)


def check_ring_bytes(size: int) -> None:
    """Raise ValueError for a ring size that the frame layout cannot use."""
    if size < MIN_RING_BYTES or size > MAX_LENGTH or size % ALIGNMENT:
        raise ValueError(
            f"ring of {size} bytes: must be a multiple of {ALIGNMENT} from {MIN_RING_BYTES}"
            f" to {MAX_LENGTH}"
        )


def max_payload(size: int) -> int:
    """Return the most payload bytes in one frame: a quarter ring, so that both ends overlap."""
    return size // 4 - HEADER_BYTES


def _footprint(length: int, room: int) -> int:
    """Return the ring bytes that a frame takes with `room` bytes from its start to the end."""
    size = (HEADER_BYTES + length + ALIGNMENT - 1) & -ALIGNMENT
    return size if room - size >= HEADER_BYTES else room


class RingWriter:
    """The writing half over `view`, which it owns. `free` is in bytes."""

    __slots__ = ("_at", "_max_payload", "_seed", "_size", "_view", "_words", "free")

    def __init__(self, view: memoryview, key: int) -> None:
        self._view = view
        self._words = view.cast("Q")
        self._size = self.free = view.nbytes
        self._max_payload = max_payload(self._size)
        self._seed = key
        self._at = 0

    def write(self, kind: int, request_id: int, payload: bytes, start: int) -> int | None:
        """Write one frame of `payload[start:]` and return where the next has to start.

        The message is complete when that is `len(payload)`. Returns None, having written nothing,
        while the frame does not fit. Nothing is visible to the reader until it is announced.
        """
        at = self._at
        room = self._size - at
        left = len(payload) - start
        length = min(left, self._max_payload, room - HEADER_BYTES)
        size = _footprint(length, room)
        if size > self.free:
            return None
        body = at + HEADER_BYTES
        end = body + length
        view = self._view
        _HEADER.pack_into(view, at, 0, length, kind, MORE if length < left else 0, request_id)
        view[body:end] = payload[start : start + length]
        self._words[at >> 3] = digest(view[at + _COVERED_AT : end], self._seed)
        self._seed += 1
        self.free -= size
        self._at = at + size if size < room else 0
        return start + length

    def credit(self, freed: int) -> None:
        """Take back bytes the reader freed. Raises CorruptFrame for more than are in use."""
        if freed > self._size - self.free:
            raise CorruptFrame(f"peer freed {freed} bytes of {self._size - self.free} in use")
        self.free += freed

    def release(self) -> None:
        """Let go of the memory."""
        self._words.release()
        self._view.release()


class RingReader:
    """The reading half over `view`, which it owns. `freed` is bytes not yet credited back."""

    __slots__ = ("_at", "_max_payload", "_seed", "_size", "_view", "freed")

    def __init__(self, view: memoryview, key: int) -> None:
        self._view = view
        self._size = view.nbytes
        self._max_payload = max_payload(self._size)
        self._seed = key
        self._at = 0
        self.freed = 0

    def read(self) -> tuple[int, int, int, bytes]:
        """Return kind, flags, request id and payload of the next announced frame.

        The bytes are copied out before they are checked, so what is returned is what was verified
        whatever the peer does meanwhile. Raises CorruptFrame, and then stays at that frame.
        """
        at = self._at
        room = self._size - at
        view = self._view
        checksum, length = _CHECKSUM_AND_LENGTH.unpack_from(view, at)
        if length > self._max_payload or length > room - HEADER_BYTES:
            raise CorruptFrame(f"frame at byte {at} claims {length} bytes of payload")
        covered = view[at + _COVERED_AT : at + HEADER_BYTES + length].tobytes()
        if digest(covered, self._seed) != checksum:
            raise CorruptFrame(f"frame at byte {at} of {length} bytes fails its checksum")
        kind, flags, request_id = _COVERED.unpack_from(covered)
        if flags > MORE:
            raise CorruptFrame(f"frame at byte {at} has unknown flags {flags:#x}")
        self._seed += 1
        size = _footprint(length, room)
        self.freed += size
        self._at = at + size if size < room else 0
        return kind, flags, request_id, covered[_PAYLOAD_AT:]

    def release(self) -> None:
        """Let go of the memory."""
        self._view.release()
