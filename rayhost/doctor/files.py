"""Whether others could read what is secret, or change what the host believes."""

import shlex
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from rayhost.doctor.finding import Finding

Kind = Literal["keys", "profile", "admin socket", "secrets"]

# Of each kind: bits that must not be set, a good mode, and what they would allow.
_RULES: dict[Kind, tuple[int, int, str]] = {
    "keys": (0o027, 0o640, "others learn who may enter, or let themselves in"),
    "profile": (0o022, 0o644, "others choose which programs run as hooks, and who may enter"),
    "admin socket": (0o077, 0o600, "others restart models and see requests"),
    "secrets": (0o077, 0o700, "others read tokens"),
}


class File(NamedTuple):
    """A file or folder."""

    kind: Kind
    path: Path
    mode: int


def read(places: Iterable[tuple[Kind, Path]]) -> Iterator[File]:
    """Yield those that are there."""
    for kind, path in places:
        try:
            yield File(kind, path, stat.S_IMODE(path.stat().st_mode))
        except (FileNotFoundError, PermissionError):  # in a folder that is closed to us
            continue


def check(files: Iterable[File]) -> Iterator[Finding]:
    """Yield those that are too open."""
    for kind, path, mode in files:
        forbidden, good, why = _RULES[kind]
        if mode & forbidden:
            yield Finding(
                "permissions",
                "error",
                f"{path} ({kind}) has mode {mode:04o}",
                why,
                f"chmod {good:04o} {shlex.quote(str(path))}",
            )
