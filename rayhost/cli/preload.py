"""Texts of a profile that may be in files of their own. `planning` calls it."""

from collections.abc import Sequence
from pathlib import Path

from rayhost.errors import RayhostError

MAX_BYTES = 1 << 20


def texts(prompts: Sequence[str], base: Path) -> tuple[str, ...]:
    """Return the preload prompts, read from where they are. Raises RayhostError."""
    return tuple(text("preload", prompt, base) for prompt in prompts)


def text(setting: str, given: str, base: Path) -> str:
    """Return a setting's text: as given or, for `file:PATH`, what is in the file.

    `base` is the folder that relative paths start from. Raises RayhostError.
    """
    if not given.startswith("file:"):
        return given
    path = base / Path(given.removeprefix("file:")).expanduser()
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        found = raw.decode()
    except UnicodeDecodeError:
        raise RayhostError(f"{setting} {path}: is not UTF-8 text") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise RayhostError(f"{setting} {path}: cannot be read: {error}") from None
    if not found or len(raw) > MAX_BYTES:
        raise RayhostError(f"{setting} {path}: has {len(raw)} bytes; expected 1 to {MAX_BYTES}")
    return found
