"""What outlives a worker: snapshots on disk, and the prompts of the profile that it is to hold.

`prepare` runs before the worker says that it is ready; `Saver` puts the most useful snapshots on
disk on a thread of its own, since disks block. `worker.preloads` computes the prompts.
"""

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rayhost import clock
from rayhost.engine.base import Codec, Engine, LoadError, PromptError
from rayhost.worker.prefixes import common
from rayhost.worker.snapshot_files import SnapshotFiles
from rayhost.worker.snapshots import Snapshot, Snapshots
from rayhost.worker.token_keys import TOKEN_BYTES

SAVE_EVERY_NS = 60_000_000_000


class _Offer(NamedTuple):
    files: SnapshotFiles
    snapshots: Sequence[Snapshot]


class Saver:
    """Writes the most useful snapshots to disk every now and then, and once one is pinned.

    What was offered and is not being written yet gives way to a later offer. After each writing its
    thread calls `saved`.
    """

    def __init__(
        self,
        files: SnapshotFiles,
        snapshots: Snapshots,
        limit_bytes: int,
        saved: Callable[[SnapshotFiles], None] = lambda _files: None,
    ) -> None:
        self._files = files
        self._snapshots = snapshots
        self._limit = limit_bytes
        self._saved = saved
        self._next_ns = clock.now_ns() + SAVE_EVERY_NS
        self._pins = 0  # of the store's, as last offered
        self._changed = threading.Condition()
        self._latest: _Offer | None = None
        self._closed = False
        self._thread = threading.Thread(target=self.run, name="saver", daemon=True)

    def start(self) -> None:
        """Begin to listen for offers."""
        self._thread.start()

    def close(self) -> None:
        """Write what is hottest now, after whatever is being written, and end."""
        self.end()
        self._thread.join()

    def end(self) -> None:
        """As `close`, without waiting for it."""
        self._offer()
        with self._changed:
            self._closed = True
            self._changed.notify()

    def beat(self) -> None:
        """Have them written if it is time. For the step thread, which alone reads the store."""
        if clock.now_ns() >= self._next_ns or self._snapshots.pins != self._pins:
            self._offer()

    def rekey(self, files: SnapshotFiles) -> None:
        """From now on save there: what the bytes of a snapshot depend on has changed."""
        self._files = files

    def _offer(self) -> None:
        self._next_ns = clock.now_ns() + SAVE_EVERY_NS
        self._pins = self._snapshots.pins
        offer = _Offer(self._files, self._snapshots.hottest(self._limit))
        with self._changed:
            self._latest = offer
            self._changed.notify()

    def run(self) -> None:
        """Write what is offered until closed: the thread's target."""
        while (offer := self._taken()) is not None:
            offer.files.save(offer.snapshots)
            self._saved(offer.files)

    def _taken(self) -> _Offer | None:
        """Wait for an offer and return it; None after the last one."""
        with self._changed:
            self._changed.wait_for(lambda: self._latest is not None or self._closed)
            offer, self._latest = self._latest, None
            return offer


def prepare(
    engine: Engine,
    codec: Codec,
    snapshots: Snapshots,
    files: SnapshotFiles | None,
    preload: Sequence[str],
) -> list[list[int]]:
    """Fill the snapshot store from disk; return the tokens of the `preload` prompts.

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
    return beginnings


def check(beginnings: Sequence[list[int]], context: int) -> None:
    """Raise LoadError for a beginning with which a context has no room for a request."""
    for number, tokens in enumerate(beginnings, 1):
        if len(tokens) >= context:
            raise LoadError(
                f"preload prompt {number} has {len(tokens)} tokens; the context is {context}"
            )


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
