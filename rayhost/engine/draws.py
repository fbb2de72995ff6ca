"""Randomness as a counter: a draw depends on (seed, position) alone, and no generator has a state.

So a resumed run goes on exactly as it would have. Pure; used by `sampling`.
"""

import struct

import xxhash

_KEY = struct.Struct("<QQ")
_64_BITS = 0xFFFF_FFFF_FFFF_FFFF


def uniform(seed: int, position: int) -> float:
    """Return the draw of a run at a position, in [0, 1): 53 bits of xxh3_64(seed, position)."""
    bits = xxhash.xxh3_64_intdigest(_KEY.pack(seed & _64_BITS, position))
    return (bits >> 11) * 2.0**-53
