"""What the next step computes. Pure: it sees sequences and measured times, no clock, no model.

There is no prefill phase and no decode phase: each step lets `computed` chase `len(tokens)` under
one token budget, decoding sequences first, then prefill chunks in order of arrival. While anything
decodes, the prefill share is what fits into the profile's inter-token time at the measured speed;
into a multiple of it where more sequences wait for their first token than for the next.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from rayhost.worker.prefixes import Prefixes, Promise, Source
from rayhost.worker.sequence import Sequence
from rayhost.worker.snapshots import Snapshots

MIN_CHUNK = 16  # prefill goes on even where one decode step already takes the whole target
_MOST_PATIENCE = 8.0  # times the inter-token target
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
    """Holds every sequence of the worker: `waiting` for a slot, or `running` in one.

    Both are in order of arrival. Each slot is held by at most one running sequence.
    """

    def __init__(
        self,
        slots: int,
        batch: int,
        target_ns: int,
        snapshots: Snapshots,
        *,
        trims: bool = True,
    ) -> None:
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.times = StepTimes()
        self._prefixes = Prefixes(slots, snapshots, trims=trims)
        self._trims = trims
        self._batch = batch
        self._target_ns = target_ns

    def __iter__(self) -> Iterator[Sequence]:
        yield from self.running
        yield from self.waiting

    @property
    def busy(self) -> bool:
        """True while a step would compute something."""
        return bool(self.running or self.waiting)

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

    def begin(self) -> list[Begin]:
        """Give cells to those who can begin now; return what is to be done, in this order.

        Those are sequences whose leader has come far enough or has left, then the waiting ones for
        which there is a slot, first come first served. `computed` already counts the new cells.
        """
        begun = []
        for index, sequence in enumerate(self.running):
            leader = sequence.leader
            if leader is None or (leader.slot >= 0 and leader.computed < sequence.fork_at):
                continue
            source, promise = self._prefixes.find(
                sequence.tokens, self.running[:index], Source("cold")
            )
            if self._follow(sequence, source, promise):
                begun.append(Begin(sequence, source, []))
        while self._prefixes.idle and self.waiting:
            sequence = self.waiting.popleft()
            sequence.slot, source, promise, lost = self._prefixes.place(
                sequence.tokens, self.running
            )
            if not self._follow(sequence, source, promise):
                source = Source("cold")
            begun.append(Begin(sequence, source, lost))
            self.running.append(sequence)
        return begun

    def _follow(self, sequence: Sequence, source: Source, promise: Promise | None) -> bool:
        """Let a sequence wait for what is promised, or return True: it has its beginning."""
        if promise is not None:
            sequence.leader, sequence.fork_at = promise
            return False
        sequence.leader = None
        sequence.computed = source.length
        sequence.reused = min(source.length, sequence.n_prompt)
        sequence.checkpoint = self._prefixes.checkpoint(
            sequence.tokens,
            (other for other in self.running if other is not sequence),
            source.length,
        )
        return True

    def plan(self) -> list[Chunk]:
        """Return the chunks of the next step, at most `batch` tokens in all.

        Concurrency never exceeds the batch, so every decoding sequence is in every step. Who waits
        for a leader is left out: his part of the batch brings the leader there sooner.
        """
        chunks = [Chunk(s, 1, True) for s in self.running if s.decoding]
        room = self._batch - len(chunks)
        if chunks:
            # Who waits for a first token counts as much as who waits for the next one: after a
            # burst of arrivals, the few that are decoding stand still once instead of haltingly.
            crowd = (len(self.running) - len(chunks)) / len(chunks)
            patience = min(max(1.0, crowd), _MOST_PATIENCE)
            room = self.times.chunk(round(patience * self._target_ns), room)
        for sequence in self.running:
            if room <= 0:
                break
            if not sequence.decoding and sequence.leader is None:
                size = min(room, self._to_border(sequence))
                chunks.append(Chunk(sequence, size, size == sequence.missing))
                room -= size
        return chunks

    def _to_border(self, sequence: Sequence) -> int:
        """Return how far one chunk of a sequence may go.

        Cells that cannot be trimmed are of use to others only at the very end of what is shared.
        """
        if self._trims:
            return sequence.missing
        borders = [s.fork_at for s in self.running if s.leader is sequence]
        ahead = [at for at in (*borders, sequence.checkpoint) if at > sequence.computed]
        return min([*ahead, len(sequence.tokens)]) - sequence.computed


def _blend(past: float, new: float) -> float:
    return new if past == 0.0 else _MEMORY * past + (1.0 - _MEMORY) * new
