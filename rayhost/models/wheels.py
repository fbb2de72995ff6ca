"""Takes one GGUF out of downloaded wheels: as a single member, or as parts to be joined.

A wheel is a stranger's zip: members are streamed and bounded by their declared size, and no name
in it becomes a path on disk. Only `fetch` calls it.
"""

import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rayhost.errors import RayhostError
from rayhost.models.sources import PypiSource, safe_member

CHUNK = 1 << 20
_PART = re.compile(r"(.+\.gguf)[.-]part-?(\d{1,5})")


@dataclass(frozen=True, slots=True)
class Piece:
    """A member of a wheel that is the GGUF or a part of it. `size` is in bytes, unpacked."""

    wheel: Path
    member: zipfile.ZipInfo

    @property
    def size(self) -> int:
        """Bytes once unpacked."""
        return self.member.file_size


def in_order(source: PypiSource, folder: Path) -> list[Path]:
    """Return the wheels in `folder` in the order in which the source names their packages."""
    found = {_normalized(wheel.name.partition("-")[0]): wheel for wheel in folder.glob("*.whl")}
    names = [_normalized(text.partition("==")[0]) for text in source.requirements]
    if set(found) != set(names):
        raise RayhostError(f"{source}: pip brought {', '.join(sorted(found)) or 'no wheel'}")
    return [found[name] for name in names]


def choose(source: PypiSource, wheels: Sequence[Path]) -> list[Piece]:
    """Return what makes up the GGUF, in order: one member, or all parts of one split file.

    Raises RayhostError, listing what is there, when that is not clear.
    """
    pieces: list[Piece] = []
    for wheel in wheels:
        try:
            with zipfile.ZipFile(wheel) as archive:
                pieces += [Piece(wheel, member) for member in archive.infolist()]
        except zipfile.BadZipFile as error:
            raise RayhostError(f"{source}: {wheel.name} is not a wheel: {error}") from error
    whole = [piece for piece in pieces if safe_member(piece.member.filename)]
    listed = ", ".join(sorted(piece.member.filename for piece in whole[:10])) or "no GGUF file"
    if source.member is not None:
        whole = [piece for piece in whole if piece.member.filename == source.member]
        if len(whole) != 1:
            raise RayhostError(f"{source}: no such file in the wheel, it has {listed}")
    if len(whole) > 1:
        raise RayhostError(f"{source}: has several GGUF files, name one of them: {listed}")
    chosen = whole or _parts(pieces)
    if not chosen:
        raise RayhostError(f"{source}: has no GGUF file, nor all parts of one")
    return chosen


def named(source: PypiSource, wheel: Path) -> Piece:
    """Return the file that the source names. Raises RayhostError where it is not in the wheel."""
    name = source.member or ""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Piece(wheel, archive.getinfo(name))
    except KeyError:
        raise RayhostError(f"{source}: no such file in the wheel") from None
    except zipfile.BadZipFile as error:
        raise RayhostError(f"{source}: {wheel.name} is not a wheel: {error}") from error


def _parts(pieces: Sequence[Piece]) -> list[Piece]:
    """All parts of one split GGUF by their numbers; nothing where one lacks or comes twice."""
    numbered: dict[int, Piece] = {}
    stems = set[str]()
    for piece in pieces:
        if match := _PART.fullmatch(piece.member.filename.rpartition("/")[2]):
            if int(match[2]) in numbered:
                return []
            numbered[int(match[2])] = piece
            stems.add(match[1])
    numbers = sorted(numbered)
    complete = numbers in [list(range(len(numbers))), list(range(1, len(numbers) + 1))]
    return [numbered[number] for number in numbers] if complete and len(stems) == 1 else []


def join(
    source: PypiSource, pieces: Sequence[Piece], target: Path, report: Callable[[int], None]
) -> None:
    """Unpack the pieces one after another into the new file `target`, reporting bytes done.

    Raises RayhostError for a damaged wheel (zipfile checks sizes and CRCs) and OSError.
    """
    with target.open("xb") as out:
        for piece in pieces:
            try:
                with (
                    zipfile.ZipFile(piece.wheel) as archive,
                    archive.open(piece.member) as packed,
                ):
                    while chunk := packed.read(CHUNK):
                        out.write(chunk)
                        report(out.tell())
            # RuntimeError: encrypted; NotImplementedError: an exotic compression; zlib.error is
            # what a flipped bit inside a member gives before its CRC is even reached.
            except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
                raise RayhostError(f"{source}: {piece.wheel.name} is damaged: {error}") from error


def _normalized(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()
