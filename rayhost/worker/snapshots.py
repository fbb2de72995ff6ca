"""Copies of KV cells in memory, for requests that begin as an earlier one did.

Invariant: `bytes_used` never exceeds the limit; what saves the least time for its bytes goes
first, and pinned ones never. Used by the step thread only; a `Snapshot` itself never changes, so
other threads may read those that they were given.

The rank is GreedyDual-Size-Frequency (L. Cherkasova, "Improving WWW Proxies Performance with
Greedy-Dual-Size-Frequency Caching Policy", HP Labs, HPL-98-69, 1998): clock + uses x cost / size
as of the last use, in milliseconds per byte; what is evicted moves the clock on to its own rank,
so that what was once popular and is not asked for any more is overtaken.
"""

import math
from bisect import bisect_left, insort
from dataclasses import dataclass, replace
from typing import Literal

from rayhost.engine.base import State
from rayhost.ipc.messages import pack_tokens
from rayhost.worker.token_keys import TOKEN_BYTES, beginnings, common, nearest


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The KV cells of `tokens` (int32, as `pack_tokens` makes them), exactly. Not to be changed."""

    tokens: bytes
    state: State
    saved_ms: float  # what computing it took, and what restoring all of it saves
    value_ms: float  # `saved_ms`, and what it has saved since: the paper's uses x cost
    tier: Literal["ram", "disk"] = "ram"  # where it came from

    @property
    def size_bytes(self) -> int:
        """What it takes of a limit."""
        return len(self.tokens) + self.state.nbytes


@dataclass(slots=True, eq=False)
class _Entry:
    snapshot: Snapshot
    rank: float
    pinned: bool


class Snapshots:
    """A store of at most `limit_bytes`. One for each worker.

    `trims` tells whether a restored state can be cut (see `Facts.trims`). Where it can, a
    snapshot makes those of its own beginnings redundant.
    """

    def __init__(self, limit_bytes: int, *, trims: bool = True) -> None:
        self.bytes_used = 0
        self.limit_bytes = limit_bytes
        self.pins = 0  # times that something was pinned
        self._trims = trims
        self._clock = 0.0
        self._entries: dict[bytes, _Entry] = {}
        self._keys: list[bytes] = []  # sorted

    def __len__(self) -> int:
        return len(self._entries)

    def best(self, tokens: list[int], *, exact: bool) -> tuple[Snapshot | None, int]:
        """Return the snapshot with the longest beginning of `tokens[:-1]`, and that length.

        With `exact`, only one that is such a beginning from end to end; else a longer one may
        have to be cut to the length. (None, 0) where nothing is shared.
        """
        want = pack_tokens(tokens[:-1])
        key = nearest(self._keys, want, exact=exact)
        length = common(key, want)
        return (self._entries[key].snapshot, length) if length else (None, 0)

    def used(self, snapshot: Snapshot, length: int) -> None:
        """Raise the rank of a snapshot of which the first `length` tokens were restored."""
        entry = self._entries.get(snapshot.tokens)
        if entry is None:  # evicted since it was found
            return
        kept = entry.snapshot
        share = length * TOKEN_BYTES / len(kept.tokens)
        entry.snapshot = replace(kept, value_ms=kept.value_ms + kept.saved_ms * share)
        entry.rank = self._rank(entry.snapshot.value_ms, kept.size_bytes)

    def worth(self, tokens: list[int], size_bytes: int, saved_ms: float) -> bool:
        """Tell whether `put` would keep a state of this size: ask before paying for the copy.

        A refusal counts as one: it ages what is stored.
        """
        key = pack_tokens(tokens)
        if self._covers(key):
            return False
        return self._replaced(key, len(key) + size_bytes, saved_ms, pinned=False) is not None

    def put(
        self, tokens: list[int], state: State, saved_ms: float, *, pinned: bool = False
    ) -> bool:
        """Keep the state of these tokens if its rank allows it; tell whether it is held now.

        The state must not be changed later.
        """
        snapshot = Snapshot(pack_tokens(tokens), state, saved_ms, value_ms=saved_ms)
        return self.add(snapshot, pinned=pinned)

    def add(self, snapshot: Snapshot, *, pinned: bool = False) -> bool:
        """Keep a snapshot, of which something may be known already; tell whether it is held now.

        What is pinned is not evicted, and refused only where it does not fit beside other pinned
        ones. A state that is already here, maybe as part of a longer one, is not stored again.
        Raises ValueError for a snapshot of no tokens.
        """
        key, size = snapshot.tokens, snapshot.size_bytes
        if not key:
            raise ValueError("a snapshot of no tokens")
        if key in self._entries:
            if pinned:
                self._pin(self._entries[key])
            return True
        if not pinned and self._covers(key):
            return True
        replaced = self._replaced(key, size, snapshot.value_ms, pinned=pinned)
        if replaced is None:
            return False
        redundant, evicted = replaced
        for entry in redundant:
            snapshot = replace(snapshot, value_ms=snapshot.value_ms + entry.snapshot.value_ms)
            self._drop(entry)
        for entry in evicted:
            self._clock = max(self._clock, entry.rank)
            self._drop(entry)
        self._entries[key] = _Entry(snapshot, self._rank(snapshot.value_ms, size), pinned)
        insort(self._keys, key)
        self.bytes_used += size
        self.pins += pinned
        return True

    def holds(self, key: bytes) -> bool:
        """Tell whether exactly these tokens, packed, are pinned."""
        entry = self._entries.get(key)
        return entry is not None and entry.pinned

    def pin(self, key: bytes) -> bool:
        """Pin exactly these tokens, packed, if they are here; tell whether they are."""
        entry = self._entries.get(key)
        if entry is None:
            return False
        self._pin(entry)
        return True

    def discard(self, snapshot: Snapshot) -> None:
        """Forget a snapshot, even a pinned one; harmless if it is not here."""
        entry = self._entries.get(snapshot.tokens)
        if entry is not None:
            self._drop(entry)

    def fit(self, limit_bytes: int, longest: int) -> None:
        """Take another limit, and forget what has more than `longest` tokens.

        Where even the pinned ones are too many, they go too.
        """
        self.limit_bytes = limit_bytes
        for entry in sorted(self._entries.values(), key=lambda entry: (entry.pinned, entry.rank)):
            too_long = len(entry.snapshot.tokens) > longest * TOKEN_BYTES
            if too_long or self.bytes_used > limit_bytes:
                self._drop(entry)

    def hottest(self, limit_bytes: int) -> list[Snapshot]:
        """Return what deserves `limit_bytes` most: the pinned ones, then by rank."""
        ranked = sorted(self._entries.values(), key=lambda entry: (entry.pinned, entry.rank))
        chosen = []
        for entry in reversed(ranked):
            if entry.snapshot.size_bytes <= limit_bytes:
                limit_bytes -= entry.snapshot.size_bytes
                chosen.append(entry.snapshot)
        return chosen

    def _rank(self, value_ms: float, size_bytes: int) -> float:
        return self._clock + value_ms / size_bytes

    def _covers(self, key: bytes) -> bool:
        """Tell whether the state of these tokens is here, alone or as a beginning."""
        if not self._trims:
            return key in self._entries
        at = bisect_left(self._keys, key)
        return at < len(self._keys) and self._keys[at].startswith(key)

    def _replaced(
        self, key: bytes, size: int, value_ms: float, *, pinned: bool
    ) -> tuple[list[_Entry], list[_Entry]] | None:
        """Return what a new snapshot makes redundant and what it evicts, or None: it is refused.

        As in the paper, one that would have to go itself evicts nothing. But it moves the clock
        by its share of the store: else a full store of once popular ones would refuse for ever.
        """
        if size > self.limit_bytes:
            return None
        begun = (
            [self._entries[other] for other in beginnings(self._keys, key)] if self._trims else []
        )
        redundant = [entry for entry in begun if not entry.pinned]
        free = self.limit_bytes - self.bytes_used + sum(e.snapshot.size_bytes for e in redundant)
        if free >= size:
            return redundant, []
        inherited = value_ms + sum(entry.snapshot.value_ms for entry in redundant)
        rank = math.inf if pinned else self._rank(inherited, size)
        others = (e for e in self._entries.values() if not e.pinned and e not in redundant)
        evicted = []
        for entry in sorted(others, key=lambda entry: entry.rank):
            if entry.rank > rank:
                break
            evicted.append(entry)
            free += entry.snapshot.size_bytes
            if free >= size:
                return redundant, evicted
        self._clock += value_ms / self.limit_bytes
        return None

    def _pin(self, entry: _Entry) -> None:
        self.pins += not entry.pinned
        entry.pinned = True

    def _drop(self, entry: _Entry) -> None:
        key = entry.snapshot.tokens
        del self._entries[key]
        del self._keys[bisect_left(self._keys, key)]
        self.bytes_used -= entry.snapshot.size_bytes
