"""Files that must survive a power cut or meet another process: locks, hashes, atomic commits.

Knows nothing of models. Only `store` calls it.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CHUNK = 1 << 20
LOOK_EVERY = 0.2  # seconds between two looks at a lock that another holds


@contextmanager
def exclusive(path: Path, waiting: Callable[[], None]) -> Iterator[int]:
    """Hold the lock file at `path` and yield its descriptor.

    While it is taken, `waiting` is called again and again; what it raises ends the waiting.
    The kernel lets go of it when every process that has the descriptor is dead. The file stays:
    removing a lock file would let two holders in.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        while not _try_lock(descriptor):
            waiting()
            time.sleep(LOOK_EVERY)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def exclusive_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock file at `path` if nobody else does; yield whether that is so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sha256_of(path: Path, report: Callable[[int], None]) -> str:
    """Return the hex digest of a file, reporting the bytes done after each MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            report(file.tell())
    return digest.hexdigest()


def commit_file(source: Path, target: Path) -> None:
    """Move a finished file to its place on the same disk: whole after any crash, or not there."""
    _sync(source)
    source.replace(target)
    _sync(target.parent)


def commit_bytes(content: bytes, target: Path) -> None:
    """Write a small file atomically: after any crash it is the old one or the new one."""
    beside = target.with_name(f".{target.name}.new")
    beside.write_bytes(content)
    commit_file(beside, target)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
