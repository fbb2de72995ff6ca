"""The effects of prefix reuse: cells copied, restored, kept; and the account of what it spared.

Called by the step loop between steps, on its thread.
"""

import math
from collections.abc import Callable, Iterable

import structlog

from rayhost.engine.base import Engine, EngineFailed
from rayhost.ipc.status import StatusPage, Word
from rayhost.worker.prefixes import Source
from rayhost.worker.scheduler import Begin
from rayhost.worker.snapshots import Snapshots

# What a step spends on copies into the snapshot store: this, or an eighth of its target if that is
# more. A copy that would take longer, by the rate of the one before, is not made. 1,000 tokens of
# 23 kB take 3 ms on a new machine.
_KEEP_NS = 5_000_000
_KEEP_SHARE = 8
_BYTE_NS = 0.15  # before the first copy
_FORGET = 0.9

_log = structlog.get_logger("rayhost.worker")

_COUNTS = {
    "idle": (Word.REUSED_IDLE, Word.REUSED_IDLE_TOKENS, Word.REUSED_IDLE_NS),
    "busy": (Word.REUSED_BUSY, Word.REUSED_BUSY_TOKENS, Word.REUSED_BUSY_NS),
    "ram": (Word.REUSED_RAM, Word.REUSED_RAM_TOKENS, Word.REUSED_RAM_NS),
    "disk": (Word.REUSED_DISK, Word.REUSED_DISK_TOKENS, Word.REUSED_DISK_NS),
}


class Cells:
    """Does to the engine's cells what the scheduler decided."""

    def __init__(
        self,
        engine: Engine,
        snapshots: Snapshots,
        status: StatusPage,
        now: Callable[[], int],
        target_ns: int,
    ) -> None:
        self._engine = engine
        self._snapshots = snapshots
        self._status = status
        self._now = now
        self._budget_ns = max(_KEEP_NS, target_ns // _KEEP_SHARE)
        self._byte_ns = _BYTE_NS
        self._token_ns = 0.0  # of prefill, as last measured

    def apply(self, begun: Iterable[Begin], token_ns: float) -> bool:
        """Carry the beginnings out, in their order; `token_ns` is what a prefill token takes.

        Return False if one of them did not have what the plan counts on: then plan again.
        """
        empty: set[int] = set()  # slots that did not get the cells that the plan counts on
        self._token_ns = token_ns
        left_ns = float(self._budget_ns)
        for sequence, source, lost in begun:
            if lost:
                left_ns -= self.keep(sequence.slot, lost, left_ns)
            before = self._now()
            if source.slot not in empty and self._given(sequence.slot, source):
                if not sequence.preload:
                    self._count(source, self._now() - before)
            else:
                self._engine.truncate(sequence.slot, 0)
                sequence.computed = sequence.reused = sequence.checkpoint = 0
                empty.add(sequence.slot)
        return not empty

    def keep(self, slot: int, tokens: list[int], left_ns: float = math.inf) -> int:
        """Put the cells of a slot, which hold `tokens`, into the snapshot store if worth it.

        Return the nanoseconds that it took; not if it would take more than `left_ns`.
        """
        saved_ms = len(tokens) * self._token_ns / 1e6
        size = self._engine.snapshot_bytes(slot)
        if not self._snapshots.worth(tokens, size, saved_ms):
            return 0
        if size * self._byte_ns > left_ns:
            self._byte_ns *= _FORGET  # or one copy that was held up would be the last
            return 0
        before = self._now()
        self._snapshots.put(tokens, self._engine.snapshot(slot), saved_ms)
        took = self._now() - before
        self._byte_ns = took / max(size, 1)
        return took

    def pin(self, slot: int, tokens: list[int]) -> bool:
        """Have the snapshot store keep these cells whatever comes; tell if it has room for them."""
        saved_ms = len(tokens) * self._token_ns / 1e6
        return self._snapshots.put(tokens, self._engine.snapshot(slot), saved_ms, pinned=True)

    def account(self) -> None:
        """Show how much the snapshot store holds."""
        self._status[Word.SNAPSHOTS] = len(self._snapshots)
        self._status[Word.SNAPSHOT_BYTES] = self._snapshots.bytes_used

    def _given(self, slot: int, source: Source) -> bool:
        """Give a slot its cells; False where a snapshot is refused, which is forgotten then."""
        try:
            self._give(slot, source)
        except EngineFailed as error:
            if source.snapshot is None:
                raise
            # Maybe from a disk that lies: the request computes what the snapshot did not give.
            _log.warning("snapshot refused", reason=str(error), tier=source.kind)
            self._snapshots.discard(source.snapshot)
            return False
        return True

    def _give(self, slot: int, source: Source) -> None:
        if source.snapshot is not None:
            self._engine.restore(slot, source.snapshot.state)
            self._snapshots.used(source.snapshot, source.length)
        elif source.slot not in (slot, -1):
            self._engine.copy(source.slot, slot, source.length)
            return
        self._engine.truncate(slot, source.length)

    def _count(self, source: Source, took_ns: int) -> None:
        if source.kind not in _COUNTS:  # cold, or moved
            return
        requests, tokens, saved = _COUNTS[source.kind]
        self._status[requests] += 1
        self._status[tokens] += source.length
        self._status[saved] += max(0, round(source.length * self._token_ns) - took_ns)
