"""Sizes of memory as people write them. A leaf; standard library only."""

import re

from rayhost.errors import RayhostError

_UNITS = {"k": 10, "m": 20, "g": 30}


def parse_size(text: str) -> int:
    """Return the bytes of a size such as `1GiB`, `768M` or `1073741824`. Raises RayhostError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?", text.strip().lower())
    if not found:
        raise RayhostError(f"{text!r} is no size; expected one such as 1GiB or 768MiB")
    return int(float(found[1]) * (1 << _UNITS.get(found[2], 0)))
