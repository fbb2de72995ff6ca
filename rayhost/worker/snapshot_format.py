"""One snapshot as one file: whole under its name, or not there, or found to be damaged.

    header | tokens | state | xxh3_128 of all that is before it

Header: magic and format version, key, bytes of tokens, bytes of state, milliseconds saved; native
byte order. Only `snapshot_files` calls it, with the descriptor of the directory that it holds open.
"""

import math
import os
import struct
from contextlib import suppress

import numpy as np
import xxhash

from rayhost.worker.snapshots import Snapshot
from rayhost.worker.token_keys import TOKEN_BYTES

_MAGIC = b"rayKV\x00\x00\x01"  # the last byte is the version of the format
_HEADER = struct.Struct("<8s16sQQd")
_CHECKSUM_BYTES = 16
FRAME_BYTES = _HEADER.size + _CHECKSUM_BYTES  # what a file has beside tokens and state
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not block
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Damaged(Exception):
    """A file is not what was written under its name; the message says why."""


def read(directory: int, name: str, size: int, key: bytes) -> Snapshot:
    """Return the snapshot in a file of `size` bytes. Raises Damaged or OSError."""
    if size < FRAME_BYTES:
        raise Damaged(f"it has {size} bytes")
    raw = np.empty(size, np.uint8)
    whole = raw.data
    with open(os.open(name, _READ, dir_fd=directory), "rb") as stream:
        if stream.readinto(whole) != size or stream.read(1):
            raise Damaged("its size changed while it was read")
    if xxhash.xxh3_128_digest(whole[:-_CHECKSUM_BYTES]) != whole[-_CHECKSUM_BYTES:]:
        raise Damaged("its checksum is wrong")
    token_bytes, saved_ms = _header(whole, size, key)
    state_at = _HEADER.size + token_bytes
    tokens = bytes(whole[_HEADER.size : state_at])
    state = raw[state_at:-_CHECKSUM_BYTES]
    return Snapshot(tokens, state, saved_ms, value_ms=saved_ms, tier="disk")


def read_head(directory: int, name: str, size: int, key: bytes) -> tuple[bytes, float]:
    """Return the tokens and the milliseconds saved that a file of `size` bytes claims.

    Its checksum is not computed. Raises Damaged or OSError.
    """
    if size < FRAME_BYTES:
        raise Damaged(f"it has {size} bytes")
    with open(os.open(name, _READ, dir_fd=directory), "rb") as stream:
        head = stream.read(_HEADER.size)
        if len(head) < _HEADER.size:
            raise Damaged("its size changed while it was read")
        token_bytes, saved_ms = _header(head, size, key)
        tokens = stream.read(token_bytes)
    if len(tokens) != token_bytes:
        raise Damaged("its size changed while it was read")
    return tokens, saved_ms


def _header(whole: "bytes | memoryview[int]", size: int, key: bytes) -> tuple[int, float]:
    """Return the bytes of tokens and the milliseconds saved. Raises Damaged."""
    magic, of_key, token_bytes, state_bytes, saved_ms = _HEADER.unpack_from(whole)
    if (magic, of_key) != (_MAGIC, key):
        raise Damaged("it was made under another key")
    if token_bytes + state_bytes + FRAME_BYTES != size or token_bytes % TOKEN_BYTES:
        raise Damaged("its lengths are wrong")
    if not token_bytes:
        raise Damaged("it is of no tokens")
    if not (math.isfinite(saved_ms) and saved_ms >= 0):
        raise Damaged(f"it claims to save {saved_ms} ms")
    return int(token_bytes), float(saved_ms)


def write(directory: int, name: str, snapshot: Snapshot, key: bytes) -> None:
    """Write a file that is whole under its name or not there. Raises OSError.

    Not synced to the disk: after a power cut the checksum finds what is missing, and a cache is
    not worth making everybody else's writes wait.
    """
    header = _HEADER.pack(
        _MAGIC, key, len(snapshot.tokens), snapshot.state.nbytes, snapshot.saved_ms
    )
    checksum = xxhash.xxh3_128()
    beside = f"{name}.{os.getpid()}.new"
    with suppress(FileNotFoundError):  # of a dead worker with the same process id
        os.unlink(beside, dir_fd=directory)
    try:
        with open(os.open(beside, _WRITE, 0o600, dir_fd=directory), "wb") as stream:
            for part in (header, snapshot.tokens, snapshot.state.data):
                checksum.update(part)
                stream.write(part)
            stream.write(checksum.digest())
        os.rename(beside, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        with suppress(FileNotFoundError):
            os.unlink(beside, dir_fd=directory)
        raise
