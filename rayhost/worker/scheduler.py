"""What the next step computes. Pure: it sees sequences and measured times, no clock, no model.

There is no prefill phase and no decode phase: each step lets `computed` chase `len(tokens)` under
one token budget, decoding sequences first, then prefill chunks by (priority, arrival). While
anything decodes, the prefill share is what fits into the profile's inter-token time at the measured
speed; more only for a burst of short prompts.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from rayhost.worker.prefixes import Place, Prefixes, Promise, Source, closer, runs
from rayhost.worker.sequence import Sequence
from rayhost.worker.snapshots import Snapshots

MIN_CHUNK = 16  # prefill goes on even where one decode step already takes the whole target
# Inter-token targets that a step may take where few wait for their next token. A longer one saves
# nothing (a token of prefill costs the same from 64 on), and who comes meanwhile waits for its end.
_BURST = 1.5
_URGENT = 4  # and for a short prompt of the highest priority
_HIGHEST = 0  # priority
_MOST_MOVED = 4096  # tokens whose cells one step may copy between slots: about 20 ms
_MEMORY = 0.8  # weight of the past in the moving averages: follows a change within ten steps


class Chunk(NamedTuple):
    """Compute `size` tokens of a sequence from `sequence.computed` on; `due`: then sample."""

    sequence: Sequence
    size: int
    due: bool


class Begin(NamedTuple):
    """The cells of `sequence.slot` become those of `source`; they held the tokens `lost`."""

    sequence: Sequence
    source: Source
    lost: list[int]


class Plan(NamedTuple):
    """One step: first `begun`, in its order, then the chunks."""

    begun: list[Begin]
    chunks: list[Chunk]


@dataclass(slots=True)
class StepTimes:
    """Measured speed, as moving averages: what a step costs before it is run."""

    decode_ns: float = 0.0  # of a step that only decodes
    prefill_ns: float = 0.0  # of one prefill token

    def learn(self, prefill_tokens: int, decoding: int, step_ns: int) -> None:
        """Take in a step of `prefill_tokens` beside `decoding` sequences that took `step_ns`."""
        if prefill_tokens == 0:
            self.decode_ns = _blend(self.decode_ns, step_ns)
        else:
            beside = self.decode_ns if decoding else 0.0
            self.prefill_ns = _blend(self.prefill_ns, max(0.0, step_ns - beside) / prefill_tokens)

    def chunk(self, target_ns: int, most: int) -> int:
        """Return how many prefill tokens fit beside decoding into a step of `target_ns`."""
        if self.prefill_ns == 0.0:  # nothing measured yet: a guess that errs on the small side
            return min(most, 4 * MIN_CHUNK)
        # Bounded before it becomes an integer: steps that look free make the quotient infinite.
        fitting = (target_ns - self.decode_ns) / self.prefill_ns
        return int(max(min(MIN_CHUNK, most), min(most, fitting)))


class Scheduler:
    """Holds every sequence of the worker: `waiting` for its first chunk, or `running` in a slot.

    Both are in order of arrival; who waits for a leader may be overtaken. Each slot is held by at
    most one running sequence.
    """

    def __init__(
        self,
        slots: int,
        batch: int,
        target_ns: int,
        snapshots: Snapshots,
        *,
        trims: bool = True,
        streams: bool = True,
    ) -> None:
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.times = StepTimes()
        self._prefixes = Prefixes(slots, snapshots, trims=trims)
        self._slots = slots
        self._trims = trims
        self._streams = streams
        self._batch = batch
        self._target_ns = target_ns

    def __iter__(self) -> Iterator[Sequence]:
        yield from self.running
        yield from self.waiting

    @property
    def busy(self) -> bool:
        """True while a step would compute something."""
        return bool(self.running or self.waiting)

    @property
    def spare(self) -> int:
        """Slots that nobody has or waits for; below 0, who waits for a slot that others have."""
        return self._slots - len(self.running) - len(self.waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Its tokens must fit a slot: the caller has checked."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out. Its slot is free again, with what it computed in the cells."""
        if sequence.slot < 0:
            self.waiting.remove(sequence)
            return
        self.running.remove(sequence)
        slot, sequence.slot = sequence.slot, -1
        self._prefixes.give(slot, sequence.tokens[: sequence.computed])

    def held(self) -> Iterator[tuple[int, list[int]]]:
        """Yield every slot with the tokens of its cells."""
        yield from self._prefixes.held()
        yield from ((s.slot, s.tokens[: s.computed]) for s in self.running)

    def find(self, request_id: int) -> Sequence | None:
        """Return the sequence of a request, or None."""
        return next((s for s in self if s.request_id == request_id), None)

    def here(self, tokens: list[int]) -> int:
        """Return how much of a request's beginning is in memory, or will be for those before it."""
        return self._prefixes.longest(tokens, self)

    def plan(self) -> Plan:
        """Return what the next step does: cells for some sequences, then at most `batch` tokens.

        A waiting sequence gets a slot only when its first chunk is computed. `computed` already
        counts the cells that `Plan.begun` gives.
        """
        decoding = [s for s in self.running if s.decoding]
        chunks = [Chunk(s, 1, True) for s in decoding]
        left = self._batch - len(decoding)
        for sequence in self.running:
            if sequence.forced and left > 0:
                left -= self._add(chunks, sequence, left)
        room = self._room(len(chunks), left)
        for sequence in sorted(self.running, key=_priority):
            share = room - self._ahead_of(sequence)
            if not (sequence.decoding or sequence.forced) and share > 0:
                room -= self._add(chunks, sequence, share)
        begun = self._gather([chunk.sequence for chunk in chunks])
        for sequence in sorted(self.waiting, key=_priority):
            if room <= 0 or not self._prefixes.idle:
                break
            if self._follows(sequence):
                continue
            place = self._prefixes.place(sequence.tokens, self.running, self._in_use(chunks))
            if isinstance(place, Promise):
                sequence.leader, sequence.fork_at = leader, at = place
                leader.priority = min(leader.priority, sequence.priority)
                if not self._trims:  # its cells are good for others nowhere but there
                    leader.checkpoint = leader.checkpoint or at
                continue
            self.waiting.remove(sequence)
            self.running.append(sequence)
            self._begin(sequence, place)
            begun.append(Begin(sequence, place.source, place.lost))
            room -= self._add(chunks, sequence, room)
        if not chunks and self.running:  # their room was for one who now follows one of them
            return self.plan()
        return Plan(begun, [self._cut(chunk) for chunk in chunks])

    def _ahead_of(self, sequence: Sequence) -> int:
        """Return how many tokens those want of a step who wait, but go before a running one."""
        ahead = [
            other.missing
            for other in sorted(self.waiting, key=_priority)
            if other.priority < sequence.priority and other.leader is None
        ]
        return sum(ahead[: self._slots - len(self.running)])

    def _room(self, decoding: int, room: int) -> int:
        """Return how many tokens of prefill the next step may have beside those decoding.

        `room` is what they leave of the batch. More than fits into the usual time where at least
        twice as many wait for their first token as for their next; and for a short prompt of the
        highest priority.
        """
        short = self.times.chunk(_URGENT * self._target_ns, room)
        firsts = urgent = 0
        for sequence in self:
            if sequence.decoding or sequence.forced or sequence.preload:
                continue
            firsts += 1
            if sequence.priority == _HIGHEST and urgent + sequence.missing <= short:
                urgent += sequence.missing
        times = _BURST if firsts >= 2 * decoding else 1
        return max(self.times.chunk(round(times * self._target_ns), room), urgent)

    def _add(self, chunks: list[Chunk], sequence: Sequence, room: int) -> int:
        """Add a chunk of a sequence that is not decoding; return its size."""
        size = min(room, self._to_border(sequence))
        chunks.append(Chunk(sequence, size, sequence.due(size)))
        return size

    def _follows(self, sequence: Sequence) -> bool:
        """Tell whether a waiting sequence's leader is still on the way to where they part."""
        leader = sequence.leader
        if leader is not None and leader.slot >= 0 and leader.computed < sequence.fork_at:
            return True
        sequence.leader = None
        return False

    def _begin(self, sequence: Sequence, place: Place) -> None:
        sequence.slot = place.slot
        sequence.computed = place.source.length
        # What a run finds that was here before, or in another worker, is mostly its own.
        if not sequence.begun:
            sequence.reused = min(place.source.length, sequence.n_prompt - 1)
        others = (other for other in self.running if other is not sequence)
        sequence.checkpoint = self._prefixes.checkpoint(
            sequence.tokens, others, place.source.length
        )

    def _in_use(self, chunks: list[Chunk]) -> set[int]:
        return {chunk.sequence.slot for chunk in chunks} if self._streams else set()

    def _gather(self, sequences: list[Sequence]) -> list[Begin]:
        """Make the sequences of a step neighbours, since those are computed at once.

        Measured with 4 sequences on 2 cores: 23 ms as neighbours, 40 with gaps between them.
        """
        at = {sequence.slot: sequence for sequence in sequences}
        if not self._streams or runs(at) <= 1:
            return []
        idle = dict(self._prefixes.held())
        moves = closer(at, idle, self._slots)
        if sum(at[slot].computed for slot, _ in moves) > _MOST_MOVED:
            return []
        moved = []
        for slot, to in moves:
            sequence = at[slot]
            lost = self._prefixes.move(sequence.tokens[: sequence.computed], slot, to)
            sequence.slot = to
            moved.append(Begin(sequence, Source("moved", sequence.computed, slot), lost))
        return moved

    def _cut(self, chunk: Chunk) -> Chunk:
        """Return a chunk that ends where followers who came after it was planned want to part."""
        if self._trims or chunk.sequence.decoding:
            return chunk
        size = min(chunk.size, self._to_border(chunk.sequence))
        return Chunk(chunk.sequence, size, chunk.sequence.due(size))

    def _to_border(self, sequence: Sequence) -> int:
        """Return how far one chunk of a sequence may go.

        Cells that cannot be trimmed are of use to others only at the very end of what is shared.
        """
        if self._trims:
            return sequence.missing
        borders = [s.fork_at for s in self.waiting if s.leader is sequence]
        ahead = [at for at in (*borders, sequence.checkpoint) if at > sequence.computed]
        return min([*ahead, len(sequence.tokens)]) - sequence.computed


_priority = attrgetter("priority")


def _blend(past: float, new: float) -> float:
    return new if past == 0.0 else _MEMORY * past + (1.0 - _MEMORY) * new
