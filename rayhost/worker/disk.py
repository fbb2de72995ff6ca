"""Snapshots that are on disk and not in memory, and the requests that wait for one to be read.

Invariant: a request waits no longer than it would take to compute what it gains, and of what was
read at most one is on its way to the store. Reading has a thread of its own, `run`, since disks
block; everything else is for the step thread.
"""

import math
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from rayhost import clock
from rayhost.ipc.messages import pack_tokens, unpack_tokens
from rayhost.worker.prefixes import MIN_SHARED
from rayhost.worker.sequence import Sequence
from rayhost.worker.snapshot_files import Listed, SnapshotFiles
from rayhost.worker.snapshots import Snapshot, Snapshots
from rayhost.worker.token_keys import TOKEN_BYTES, common, nearest


class Fetched(NamedTuple):
    """What was read for these tokens; None: it was gone, or damaged."""

    files: SnapshotFiles
    tokens: bytes
    snapshot: Snapshot | None


class _Index(NamedTuple):
    """What is on disk. Never changed, but replaced by another."""

    keys: tuple[bytes, ...]  # sorted
    listed: dict[bytes, Listed]


class _Job(NamedTuple):
    files: SnapshotFiles
    tokens: bytes | None  # None: list what is there


@dataclass
class _Wait:
    """For one reading, until it is done; from `until_ns` on nobody waits for it."""

    until_ns: int
    sequences: list[Sequence] = field(default_factory=list)


_NOTHING = _Index((), {})


class Disk:
    """The tier behind the snapshot store; without `files`, one that never has anything.

    `put` takes what was read to the step thread's inbox. Snapshots of over `longest` tokens are of
    no use to the engine.
    """

    def __init__(
        self,
        files: SnapshotFiles | None,
        snapshots: Snapshots,
        put: Callable[[Fetched], None],
        *,
        trims: bool,
        longest: int,
        now: Callable[[], int] = clock.now_ns,
    ) -> None:
        self._files = files
        self._snapshots = snapshots
        self._put = put
        self._trims = trims
        self._longest = longest
        self._now = now
        self._index = _NOTHING
        self._waits: dict[bytes, _Wait] = {}
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._room = threading.Semaphore()  # for what was read and is not in the store yet
        if files is not None:
            self.relist(files)

    def start(self) -> None:
        """Begin to read."""
        threading.Thread(target=self.run, name="disk", daemon=True).start()

    def run(self) -> None:
        """List and read what is asked for, for ever: the thread's target."""
        while True:
            self.turn()

    def turn(self) -> None:
        """Wait for one thing to do, and do it."""
        job = self._jobs.get()
        if job.tokens is not None:
            self._room.acquire()
            self._put(Fetched(job.files, job.tokens, job.files.load(job.tokens)))
            return
        most = self._longest * TOKEN_BYTES
        listed = {one.tokens: one for one in job.files.listed() if len(one.tokens) <= most}
        if self._is_current(job.files):
            self._index = _Index(tuple(sorted(listed)), listed)

    def relist(self, files: SnapshotFiles) -> None:
        """Have it noted what is on disk now: something was saved. For any thread."""
        self._jobs.put(_Job(files, None))

    def rekey(self, files: SnapshotFiles, longest: int) -> None:
        """From now on look there: what the bytes of a snapshot depend on may have changed."""
        if self._is_current(files) and longest == self._longest:
            return
        self._files, self._longest = files, longest
        self._index = _NOTHING
        self.relist(files)

    def hold(self, sequence: Sequence, here: int) -> bool:
        """Keep a sequence until more of its beginning is read than the `here` tokens in memory.

        Return False where the disk has no more, or the store no room for it.
        """
        index = self._index
        want = pack_tokens(sequence.tokens[:-1])
        key = nearest(index.keys, want, exact=not self._trims)
        gain = common(key, want) - here
        if gain < MIN_SHARED or self._files is None:
            return False
        wait = self._waits.get(key)
        if wait is None:
            listed, tokens = index.listed[key], unpack_tokens(key)
            value_ms = listed.value_ms + listed.saved_ms  # with what it is about to save
            if not self._snapshots.worth(tokens, listed.size_bytes - len(key), value_ms):
                return False
            spared_ns = listed.saved_ms * 1e6 * gain / len(tokens)
            wait = self._waits[key] = _Wait(self._now() + round(spared_ns))
            self._jobs.put(_Job(self._files, key))
        if wait.until_ns <= self._now():
            return False
        wait.sequences.append(sequence)
        return True

    def drop(self, request_id: int) -> bool:
        """Forget a sequence that waits; tell if there was one."""
        for wait in self._waits.values():
            for sequence in wait.sequences:
                if sequence.request_id == request_id:
                    wait.sequences.remove(sequence)
                    return True
        return False

    def take(self, fetched: Fetched) -> list[Sequence]:
        """Put into the store what was read; return who waited for it."""
        self._room.release()
        key, index = fetched.tokens, self._index
        if fetched.snapshot is None and key in index.listed:  # until it is saved again
            listed = {one: index.listed[one] for one in index.keys if one != key}
            self._index = _Index(tuple(listed), listed)
        elif fetched.snapshot is not None and self._is_current(fetched.files):
            one = fetched.snapshot
            self._snapshots.add(replace(one, value_ms=one.value_ms + one.saved_ms))
        return self._waits.pop(fetched.tokens).sequences

    def overdue(self) -> Iterator[Sequence]:
        """Yield who has waited too long; what was asked for still comes into the store."""
        for wait in self._waits.values():
            if wait.sequences and wait.until_ns <= self._now():
                sequences, wait.sequences = wait.sequences, []
                yield from sequences

    @property
    def patience_ns(self) -> float:
        """How long until `overdue` has somebody; 0 or less while it has."""
        ends = [wait.until_ns for wait in self._waits.values() if wait.sequences]
        return min(ends) - self._now() if ends else math.inf

    @property
    def waiting(self) -> int:
        """How many sequences wait."""
        return sum(len(wait.sequences) for wait in self._waits.values())

    def _is_current(self, files: SnapshotFiles) -> bool:
        return self._files is not None and files.key == self._files.key
