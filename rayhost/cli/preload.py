"""The preload prompts of a profile as texts. `serve` calls it."""

from collections.abc import Sequence
from pathlib import Path

from rayhost.errors import RayhostError

MAX_BYTES = 1 << 20


def texts(prompts: Sequence[str], base: Path) -> tuple[str, ...]:
    """Return the prompts with `file:PATH` replaced by what is in the file.

    `base` is the folder that relative paths start from. Raises RayhostError.
    """
    return tuple(
        _read(base / Path(prompt.removeprefix("file:")).expanduser())
        if prompt.startswith("file:")
        else prompt
        for prompt in prompts
    )


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        text = raw.decode()
    except UnicodeDecodeError:
        raise RayhostError(f"preload {path}: is not UTF-8 text") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise RayhostError(f"preload {path}: cannot be read: {error}") from None
    if not text or len(raw) > MAX_BYTES:
        raise RayhostError(f"preload {path}: has {len(raw)} bytes; expected 1 to {MAX_BYTES}")
    return text
