"""Token ids packed to bytes and sorted: a search for what begins alike is a bisection. Pure.

What begins alike stands together, and bytes compare by memcmp.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

import numpy as np

TOKEN_BYTES = 4  # int32, as `pack_tokens` makes them


def nearest(keys: Sequence[bytes], want: bytes, *, exact: bool) -> bytes:
    """Return the key that has the longest beginning of `want`, or nothing where there are none.

    With `exact`, only one that is such a beginning from end to end.
    """
    if exact:
        return next(beginnings(keys, want), b"")
    at = bisect_left(keys, want)
    beside = keys[max(at - 1, 0) : at + 1]
    return max(beside, key=lambda other: common(other, want), default=b"")


def beginnings(keys: Sequence[bytes], key: bytes) -> Iterator[bytes]:
    """Yield the keys that `key` begins with, the longest first."""
    at = bisect_right(keys, key)
    while at > 0:
        before = keys[at - 1]
        if key.startswith(before):
            yield before
            at -= 1
        else:
            # Whatever else `key` begins with sorts before, and `before` begins with it too.
            key = key[: common(before, key) * TOKEN_BYTES]
            at = bisect_right(keys, key, hi=at - 1)


def common(one: bytes, other: bytes) -> int:
    """Return how many tokens both begin with."""
    size = min(len(one), len(other))
    if one[:size] == other[:size]:
        return size // TOKEN_BYTES
    count = size // TOKEN_BYTES
    differ = np.frombuffer(one, np.int32, count) != np.frombuffer(other, np.int32, count)
    return int(differ.argmax())
