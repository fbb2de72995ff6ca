"""What a field of a profile may be: bounded texts, each with the words that a mistake is told in.

`Section` is the base of every object in a profile. Only this package imports it.
"""

from typing import Annotated

import msgspec
from msgspec import Meta


def text(pattern: str, wanted: str) -> Meta:
    """Return the bound of a text; `wanted` says in words what the pattern takes."""
    # Python's "$" also matches before a final newline; the lookahead is in ECMA's regexes too,
    # which editors use.
    return Meta(pattern=f"^{pattern}(?!\\n)$", extra={"wanted": wanted})


Name = Annotated[
    str,
    text(
        "[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
        "1 to 64 letters, digits, '.', '_' or '-', the first a letter or a digit",
    ),
]
Alias = Annotated[
    str,
    text(
        "[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}",
        "1 to 128 letters, digits, '.', '_', ':', '/' or '-', the first a letter or a digit",
    ),
]
Source = Annotated[
    str, text(r"[^\x00-\x1f\x7f]{1,4096}", "a catalog name, or a pypi:, hf: or file: source")
]
Sha256 = Annotated[str, text("[0-9a-f]{64}", "64 lower-case hex digits")]
Host = Annotated[str, text(r"[^\x00-\x20\x7f]{1,255}", "an IP address or a host name")]
FilePath = Annotated[str, text(r"[^\x00-\x1f\x7f]{1,4096}", "a path")]
Origin = Annotated[
    str,
    text(r"(\*|https?://[^\x00-\x20\x7f/]{1,255})", "an origin like https://example.org, or *"),
]
Cpu = Annotated[int, Meta(ge=0, le=4095)]
CpuList = Annotated[tuple[Cpu, ...], Meta(min_length=1, max_length=512)]
Argument = Annotated[str, text(r"[^\x00]{0,4096}", "a text without NUL")]
Command = tuple[Argument, ...]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every object in a profile."""
