"""Beginnings that a worker has before its first request: from disk, or computed from the profile.

`prepare` runs before the worker says that it is ready; `Saver` puts the most useful snapshots on
disk on a thread of its own, since disks block.
"""

import queue
import threading
from collections.abc import Sequence
from typing import NamedTuple

import structlog

from rayhost import clock
from rayhost.engine.base import Codec, Engine, EngineFailed, LoadError, PromptError
from rayhost.worker.prefixes import common
from rayhost.worker.snapshot_files import SnapshotFiles
from rayhost.worker.snapshots import TOKEN_BYTES, Snapshot, Snapshots

SAVE_EVERY_NS = 60_000_000_000

_log = structlog.get_logger("rayhost.worker")


class _Offer(NamedTuple):
    files: SnapshotFiles
    snapshots: Sequence[Snapshot]


class Saver:
    """Writes the most useful snapshots to disk every now and then."""

    def __init__(self, files: SnapshotFiles, snapshots: Snapshots, limit_bytes: int) -> None:
        self._files = files
        self._snapshots = snapshots
        self._limit = limit_bytes
        self._next_ns = clock.now_ns() + SAVE_EVERY_NS
        self._offers: queue.SimpleQueue[_Offer | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self.run, name="saver", daemon=True)

    def start(self) -> None:
        """Begin to listen for offers."""
        self._thread.start()

    def close(self) -> None:
        """Write what is hottest now, after whatever is being written, and end."""
        self._offer()
        self._offers.put(None)
        self._thread.join()

    def beat(self) -> None:
        """Have them written if it is time. For the step thread, which alone reads the store."""
        if clock.now_ns() >= self._next_ns:
            self._next_ns = clock.now_ns() + SAVE_EVERY_NS
            self._offer()

    def rekey(self, files: SnapshotFiles) -> None:
        """From now on save there: what the bytes of a snapshot depend on has changed."""
        self._files = files

    def _offer(self) -> None:
        self._offers.put(_Offer(self._files, self._snapshots.hottest(self._limit)))

    def run(self) -> None:
        """Write what is offered until closed: the thread's target."""
        while (offer := self._offers.get()) is not None:
            offer.files.save(offer.snapshots)


def prepare(
    engine: Engine,
    codec: Codec,
    snapshots: Snapshots,
    files: SnapshotFiles | None,
    preload: Sequence[str],
) -> list[list[int]]:
    """Fill the snapshot store; return the tokens of the `preload` prompts, which it keeps.

    Raises LoadError for a prompt that no request could begin with.
    """
    if files is not None:
        for snapshot in files.load_all(snapshots.limit_bytes):
            if len(snapshot.tokens) <= engine.facts.context * TOKEN_BYTES:
                snapshots.add(snapshot)
    beginnings = []
    for number, text in enumerate(preload, 1):
        try:
            beginnings.append(beginning(codec, text, chat=engine.facts.chat))
        except PromptError as error:
            raise LoadError(f"preload prompt {number}: {error}") from error
    check(beginnings, engine.facts.context)
    pin(engine, snapshots, beginnings)
    return beginnings


def check(beginnings: Sequence[list[int]], context: int) -> None:
    """Raise LoadError for a beginning with which a context has no room for a request."""
    for number, tokens in enumerate(beginnings, 1):
        if len(tokens) >= context:
            raise LoadError(
                f"preload prompt {number} has {len(tokens)} tokens; the context is {context}"
            )


def pin(engine: Engine, snapshots: Snapshots, beginnings: Sequence[list[int]]) -> None:
    """Have the store keep these whatever comes; what it does not hold is computed, in slot 0."""
    for number, tokens in enumerate(beginnings, 1):
        if not _hold(engine, snapshots, tokens):
            _log.warning("preload does not fit into snapshots.ram_mb", prompt=number)


def beginning(codec: Codec, text: str, *, chat: bool) -> list[int]:
    """Return the tokens that every request with this system prompt begins with.

    Without a chat template, those of any text that goes on from it; the last token is left out,
    since it may change with what follows.
    """
    if not chat:
        return codec.text(text)[:-1]
    one, other = (
        codec.chat([{"role": "system", "content": text}, {"role": "user", "content": said}])
        for said in ("a", "1")
    )
    return one[: common(one, other)]


def _hold(engine: Engine, snapshots: Snapshots, tokens: list[int]) -> bool:
    """Pin the cells of these tokens, computed if they are not here yet; tell if they fit."""
    found, length = snapshots.best([*tokens, 0], exact=not engine.facts.trims)
    if found is None or length < len(tokens) or not _restored(engine, found, length):
        began = clock.now_ns()
        batch = engine.batch
        for start in range(0, len(tokens), batch.capacity):
            batch.clear()
            batch.add(0, tokens[start : start + batch.capacity], start, due=False)
            engine.decode()
        saved_ms = (clock.now_ns() - began) / 1e6
    else:
        saved_ms = found.saved_ms * len(tokens) * TOKEN_BYTES / len(found.tokens)
    state = engine.snapshot(0)
    engine.truncate(0, 0)
    return snapshots.put(tokens, state, saved_ms, pinned=True)


def _restored(engine: Engine, snapshot: Snapshot, length: int) -> bool:
    """Put the first `length` tokens of a snapshot into slot 0, if the engine takes it."""
    try:
        engine.restore(0, snapshot.state)
    except EngineFailed as error:
        _log.warning("snapshot refused", reason=str(error), tier=snapshot.tier)
        engine.truncate(0, 0)
        return False
    engine.truncate(0, length)
    return True
