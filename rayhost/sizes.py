"""Sizes of memory as people write them. A leaf; standard library only."""

import re

from rayhost.errors import RayhostError

_UNITS = {"k": 10, "m": 20, "g": 30}
_LEAST_BARE = 1 << 20
_MOST = 1 << 50  # a float of more digits may be no integer


def parse_size(text: str) -> int:
    """Return the bytes of a size such as `1GiB`, `768M` or `1073741824`. Raises RayhostError.

    A bare number below 1 MiB is refused: who writes `512` of a machine means mebibytes.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?", text.strip().lower())
    if not found:
        raise RayhostError(f"{text[:40]!r} is no size; expected one such as 1GiB or 768MiB")
    size = float(found[1]) * (1 << _UNITS.get(found[2], 0))
    if size > _MOST:
        raise RayhostError(f"{text[:40]!r} is too large; expected at most {_MOST >> 30}GiB")
    if size < _LEAST_BARE and found[0] == found[1]:
        raise RayhostError(f"{text[:40]!r} has no unit and would be bytes; try {found[1]}MiB")
    return int(size)
