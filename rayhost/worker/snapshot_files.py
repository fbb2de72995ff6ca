"""Snapshots on disk, so that a worker begins as warm as the last one ended.

Invariant: nothing is given out that was not written whole under the same key, and the files never
take more than the limit. The disk may fail: that is a log line, never an exception. The files hold
users' prompts, so only their owner may read them. Calls block: not for the step thread.

    <xxh3_128 of the key>-<xxh3_128 of the tokens>-<value in ms>.kv
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import structlog
import xxhash

from rayhost.worker.snapshot_format import FRAME_BYTES, Damaged, read, read_head, write
from rayhost.worker.snapshots import Snapshot

_NAME = re.compile(r"([0-9a-f]{32})-([0-9a-f]{32})-([0-9]{1,15})\.kv(\.[0-9]+\.new)?")
_MOST_VALUE = 10**15 - 1
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_log = structlog.get_logger("rayhost.snapshots")


class _File(NamedTuple):
    name: str
    key: str
    tokens: str
    value_ms: int
    whole: bool  # False: a writer is at work, or died there
    size: int
    modified_ns: int


class Listed(NamedTuple):
    """A snapshot that may be on disk: what its file says without being read whole."""

    tokens: bytes
    size_bytes: int  # as a `Snapshot`
    saved_ms: float
    value_ms: float


class SnapshotFiles:
    """The snapshots in `directory` that were made under `key`: at most `limit_bytes` of files.

    `key` names everything that a state depends on: model, KV type and layout, library version.
    Files of other keys count towards the limit, too, and go as the oldest do; what else is in the
    directory is neither counted nor touched.
    """

    def __init__(self, directory: Path, limit_bytes: int, key: str) -> None:
        self._directory = directory
        self._limit = limit_bytes
        self.key = key
        self._key = xxhash.xxh3_128_digest(key.encode())

    def load_all(self, limit_bytes: int) -> Iterator[Snapshot]:
        """Yield what fits into `limit_bytes` of memory, best rank first.

        A damaged file is removed, with a line in the log.
        """
        try:
            with self._opened() as directory:
                yield from self._load(directory, limit_bytes)
        except FileNotFoundError:
            return  # nothing was saved yet
        except OSError as error:
            self._warn("snapshots not loaded", error)

    def listed(self) -> list[Listed]:
        """Return what is there, as far as it can be read."""
        try:
            with self._opened() as directory:
                found = [self._head(directory, file) for file in self._own(_list(directory))]
        except FileNotFoundError:
            return []  # nothing was saved yet
        except OSError as error:
            self._warn("snapshots not listed", error)
            return []
        return [one for one in found if one is not None]

    def load(self, tokens: bytes) -> Snapshot | None:
        """Return the snapshot of exactly these tokens, None where it is gone or damaged."""
        digest = xxhash.xxh3_128_hexdigest(tokens)
        try:
            with self._opened() as directory:
                for _ in range(2):  # the first may be renamed before it is opened
                    for file in self._own(_list(directory)):
                        if file.tokens == digest and (found := self._read(directory, file)):
                            return found
        except OSError as error:
            self._warn("snapshot not read", error)
        return None

    def save(self, snapshots: Sequence[Snapshot]) -> int:
        """Write those that are not on disk yet, the first ones first; return how many.

        Room for them is made before: the oldest go that are not among them.
        """
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._opened() as directory:
                return self._save(directory, snapshots)
        except OSError as error:
            self._warn("snapshots not saved", error)
            return 0

    def _load(self, directory: int, limit_bytes: int) -> Iterator[Snapshot]:
        own = self._own(_list(directory))
        for file in sorted(own, key=lambda file: file.value_ms / max(file.size, 1), reverse=True):
            if file.size - FRAME_BYTES > limit_bytes:
                continue
            if snapshot := self._read(directory, file):
                limit_bytes -= snapshot.size_bytes
                yield snapshot

    def _read(self, directory: int, file: _File) -> Snapshot | None:
        try:
            snapshot = read(directory, file.name, file.size, self._key)
            if xxhash.xxh3_128_hexdigest(snapshot.tokens) != file.tokens:
                raise Damaged("it is of other tokens than its name says")
        except Damaged as why:
            _log.warning("snapshot removed", file=file.name, reason=str(why))
            with suppress(OSError):  # removed next time
                os.unlink(file.name, dir_fd=directory)
        except OSError as error:
            _log.warning("snapshot not read", file=file.name, reason=str(error))
        else:
            return replace(snapshot, value_ms=float(file.value_ms))
        return None

    def _head(self, directory: int, file: _File) -> Listed | None:
        try:
            tokens, saved_ms = read_head(directory, file.name, file.size, self._key)
        except (Damaged, OSError):  # `load` says why, and removes it
            return None
        return Listed(tokens, file.size - FRAME_BYTES, saved_ms, float(file.value_ms))

    def _save(self, directory: int, snapshots: Sequence[Snapshot]) -> int:
        wanted = self._that_fit(snapshots)
        files = _list(directory)
        present = {(file.tokens, file.size): file.name for file in self._own(files)}
        kept = {present[mark] for mark in wanted if mark in present}
        others = [file for file in files if file.name not in kept]
        for file in _too_many(others, self._limit - sum(size for _, size in wanted)):
            with suppress(FileNotFoundError):  # another worker was faster
                os.unlink(file.name, dir_fd=directory)
        written = 0
        for (tokens, size), snapshot in wanted.items():
            name = f"{self._key.hex()}-{tokens}-{min(round(snapshot.value_ms), _MOST_VALUE)}.kv"
            old = present.get((tokens, size))
            try:
                if old is None:
                    write(directory, name, snapshot, self._key)
                    written += 1
                else:
                    os.rename(old, name, src_dir_fd=directory, dst_dir_fd=directory)
                    os.utime(name, dir_fd=directory)  # as young as one that is written now
            except OSError as error:  # a smaller one may fit; another worker may have removed it
                _log.warning("snapshot not saved", file=name, reason=error.strerror)
        return written

    def _own(self, files: Iterable[_File]) -> list[_File]:
        return [file for file in files if file.whole and file.key == self._key.hex()]

    def _that_fit(self, snapshots: Sequence[Snapshot]) -> dict[tuple[str, int], Snapshot]:
        """Return the snapshots that the limit has room for, by digest of tokens and file size."""
        room = self._limit
        fitting = {}
        for snapshot in snapshots:
            size = snapshot.size_bytes + FRAME_BYTES
            mark = xxhash.xxh3_128_hexdigest(snapshot.tokens), size
            if size <= room and mark not in fitting:
                fitting[mark] = snapshot
                room -= size
        return fitting

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """Hold the directory open: it cannot be swapped for another meanwhile. Raises OSError."""
        directory = os.open(self._directory, _DIRECTORY)
        try:
            facts = os.fstat(directory)
            if facts.st_uid != os.geteuid():
                raise PermissionError("it belongs to another user")
            if facts.st_mode & 0o077:
                os.fchmod(directory, 0o700)
            yield directory
        finally:
            os.close(directory)

    def _warn(self, event: str, error: OSError) -> None:
        _log.warning(event, directory=str(self._directory), reason=error.strerror or str(error))


def _list(directory: int) -> list[_File]:
    """Return the files with one of our names. What only looks like one is left alone, and said."""
    files = []
    with os.scandir(directory) as entries:
        for entry in entries:
            match = _NAME.fullmatch(entry.name)
            if match is None:
                continue
            try:
                facts = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # renamed or removed by another worker
                continue
            if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
                _log.warning("snapshot skipped", file=entry.name, reason="not a file of ours")
                continue
            key, tokens, value, new = match.groups()
            size, modified = facts.st_size, facts.st_mtime_ns
            files.append(_File(entry.name, key, tokens, int(value), not new, size, modified))
    return files


def _too_many(files: Sequence[_File], room: int) -> Iterator[_File]:
    """Yield the oldest until the others fit into `room`."""
    excess = sum(file.size for file in files) - room
    for file in sorted(files, key=lambda file: file.modified_ns):
        if excess <= 0:
            return
        yield file
        excess -= file.size
