"""What a worker's answers depend on besides the request: its model file and how it was loaded.

Equal identities mean that one worker's answer is the other's, too.
"""

import copy
import secrets
from typing import Self

import msgspec
import xxhash

from rayhost.file_stamp import stamp_of
from rayhost.ipc.messages import Load, Ready


class Origin:
    """What a worker loads; made before the worker opens the file."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self._stamp = stamp_of(load.path)

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
        if stamp is None or stamp_of(load.path) != stamp:
            return secrets.token_bytes(16)
        settings = (load.name, load.kv_type, load.kv_layout, load.flash_attention, ready.context)
        read = (load.path, load.chat_template, *stamp)
        return xxhash.xxh3_128_digest(msgspec.msgpack.encode((*settings, *read)))
