"""What KV cells hold, and with how much of it a request can begin. Pure: it moves no cells.

Invariant: the cells of an idle slot hold exactly the tokens noted for it, those of a running
sequence its `tokens[:computed]`, once what `Plan.begun` lists is done. One per scheduler.

What a search prefers, at equal length: an idle slot, a busy one, a snapshot in RAM, one from disk.
Copying cells costs about 4 µs a token, computing them 1 to 3 ms (docs/performance.md): so length
is all that counts, above a minimum that spares the fixed costs and the bookkeeping.
"""

from collections.abc import Collection, Iterable
from typing import Literal, NamedTuple

from rayhost.worker.sequence import Sequence
from rayhost.worker.snapshots import Snapshot, Snapshots

MIN_SHARED = 16  # tokens; a shorter beginning is computed again
_BLOCK = 64

Kind = Literal["cold", "idle", "busy", "ram", "disk", "moved"]


class Source(NamedTuple):
    """The first `length` tokens of a request, as they exist in a slot's cells or a snapshot."""

    kind: Kind
    length: int = 0
    slot: int = -1
    snapshot: Snapshot | None = None


class Promise(NamedTuple):
    """A running sequence that will hold the first `length` tokens before anybody else."""

    leader: Sequence
    length: int


class Place(NamedTuple):
    """A slot for a request, what it begins with, and what the slot's cells lose by it."""

    slot: int
    source: Source
    lost: list[int]


class Prefixes:
    """The idle slots, the longest unused first, and the search over everything that has cells.

    `trims`: cells behind a position can be dropped. Where they cannot (sliding windows, recurrent
    states), only a beginning that ends where the cells end is of use.
    """

    def __init__(self, slots: int, snapshots: Snapshots, *, trims: bool) -> None:
        self._idle: dict[int, list[int]] = {slot: [] for slot in range(slots)}
        self._snapshots = snapshots
        self._trims = trims

    @property
    def idle(self) -> bool:
        """True while a slot is free."""
        return bool(self._idle)

    def held(self) -> Iterable[tuple[int, list[int]]]:
        """Return the idle slots and what their cells hold."""
        return self._idle.items()

    def give(self, slot: int, held: list[int]) -> None:
        """Take back a slot whose cells hold these tokens."""
        self._idle[slot] = held

    def place(
        self, tokens: list[int], running: Iterable[Sequence], beside: Collection[int] = ()
    ) -> Place | Promise:
        """Take an idle slot for a request, or return for whom it had better wait.

        Slots that leave the fewest gaps with those in use, `beside`, come first. Of these it goes
        on in the one that holds most of its beginning if it replaces no more there than it saves.
        Otherwise it takes the longest unused one and gets a copy of its beginning, so that both
        conversations stay.
        """
        want = tokens[:-1]  # the last one is always computed, for its logits
        fewest = min(runs({*beside, slot}) for slot in self._idle)
        usable = {
            slot: self._usable(held, want)
            for slot, held in self._idle.items()
            if runs({*beside, slot}) == fewest
        }
        slot = max(usable, key=lambda slot: (usable[slot], -len(self._idle[slot])))
        if usable[slot] < MIN_SHARED or 2 * usable[slot] < len(self._idle[slot]):
            slot = next(iter(usable))
        own = Source("idle", usable[slot], slot) if usable[slot] else Source("cold")
        source, promise = self._find(want, running, own)
        if promise is not None:
            return promise
        held = self._idle.pop(slot)
        kept = source.length if source.slot == slot else 0
        return Place(slot, source, held if len(held) - kept >= MIN_SHARED else [])

    def longest(self, tokens: list[int], running: Iterable[Sequence]) -> int:
        """Return how much of a request's beginning there is in memory, or will be."""
        want = tokens[:-1]
        lengths = [self._usable(held, want) for held in self._idle.values()]
        lengths += [common(other.tokens, want) for other in running]
        return max(*lengths, self._snapshots.best(tokens, exact=not self._trims)[1], 0)

    def move(self, held: list[int], slot: int, to: int) -> list[int]:
        """Let a sequence go from one slot to an idle one; return what is lost there.

        What it leaves behind is good for other requests, but the first to be replaced.
        """
        lost = self._idle.pop(to)
        self._idle = {slot: held, **self._idle}
        return lost if len(lost) >= MIN_SHARED else []

    def _find(
        self, want: list[int], running: Iterable[Sequence], own: Source
    ) -> tuple[Source, Promise | None]:
        """Return the best beginning of a request beside `own`, or who is about to have a better."""
        best, promise = own, None
        for slot, held in self._idle.items():
            best = _longer(best, Source("idle", self._usable(held, want), slot))
        for other in running:
            shared = common(other.tokens, want)
            ready = self._usable_of(other, shared)
            best = _longer(best, Source("busy", ready, other.slot))
            if other.computed < shared and (promise is None or shared > promise.length):
                promise = Promise(other, shared)
        snapshot, length = self._snapshots.best([*want, 0], exact=not self._trims)
        if snapshot is not None:
            best = _longer(best, Source(snapshot.tier, length, snapshot=snapshot))
        if best.length < own.length + MIN_SHARED:
            best = own
        if promise is not None and promise.length >= best.length + MIN_SHARED:
            return best, promise
        if best.kind == "idle" and best.slot in self._idle:  # of use: it stays longer
            self._idle[best.slot] = self._idle.pop(best.slot)
        return best, None

    def checkpoint(self, tokens: list[int], running: Iterable[Sequence], begun: int) -> int:
        """Return where a request's cells are worth keeping for others, 0 for nowhere.

        Only for models that cannot trim: cells that went past a shared beginning are of no use to
        the next request that has it, so the second one to come keeps a copy at its end.
        """
        if self._trims:
            return 0
        want = tokens[:-1]
        known = [*self._idle.values(), *(other.tokens for other in running)]
        shared = max((common(other, want) for other in known), default=0)
        return shared if shared >= begun + MIN_SHARED else 0

    def _usable(self, held: list[int], want: list[int]) -> int:
        shared = common(held, want)
        return shared if self._trims or shared == len(held) else 0

    def _usable_of(self, other: Sequence, shared: int) -> int:
        if self._trims:
            return min(shared, other.computed)
        return other.computed if other.computed <= shared else 0


def runs(slots: Collection[int]) -> int:
    """Return how many runs of neighbours the slots form."""
    return sum(slot - 1 not in slots for slot in slots)


def closer(used: Collection[int], idle: Collection[int], slots: int) -> list[tuple[int, int]]:
    """Return the fewest moves, (from, to), that make neighbours of the slots in use.

    Only idle slots are moved to. None where they are neighbours already, or cannot be.
    """
    best: list[tuple[int, int]] | None = None
    for start in range(slots - len(used) + 1):
        window = range(start, start + len(used))
        outside = [slot for slot in used if slot not in window]
        free = [slot for slot in window if slot not in used]
        possible = all(slot in idle for slot in free)
        if possible and (best is None or len(outside) < len(best)):
            best = list(zip(outside, free, strict=True))
    return best or []


def _longer(best: Source, other: Source) -> Source:
    return other if other.length > best.length else best


def common(one: list[int], other: list[int]) -> int:
    """Return the length of what both begin with."""
    # Lists compare in C: about 3 µs for 300 tokens, against 15 for a loop over pairs.
    start, end = 0, min(len(one), len(other))
    while start < end and one[start : start + _BLOCK] == other[start : start + _BLOCK]:
        start += _BLOCK
    if start >= end:
        return end
    for at in range(start, min(start + _BLOCK, end)):
        if one[at] != other[at]:
            return at
    return end
