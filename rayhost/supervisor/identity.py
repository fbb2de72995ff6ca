"""What a worker's answers depend on besides the request: its model file and how it was loaded.

Equal identities mean that one worker's answer is the other's, too.
"""

import copy
import os
import secrets
from typing import Self

import msgspec
import xxhash

from rayhost.ipc.messages import Load, Ready


class Origin:
    """What a worker loads; made before the worker opens the file."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self._stamp = _stamp(load.path)

    def resized(self, load: Load) -> Self:
        """Return what the same worker has loaded once its context is another."""
        other = copy.copy(self)
        other.load = load
        return other

    def identity(self, ready: Ready) -> bytes:
        """Return the 16 bytes that identify the worker, once it has loaded.

        Where the file changed meanwhile, nobody knows which one it has: equal to no other then.
        """
        load, stamp = self.load, self._stamp
        if stamp is None or _stamp(load.path) != stamp:
            return secrets.token_bytes(16)
        settings = (load.name, load.kv_type, load.kv_layout, load.flash_attention, ready.context)
        read = (load.path, load.chat_template, *stamp)
        return xxhash.xxh3_128_digest(msgspec.msgpack.encode((*settings, *read)))


def _stamp(path: str) -> tuple[int, ...] | None:
    """Return what changes when a file is replaced or written to; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:  # the worker will say what is wrong with it
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
