"""The status page: what a worker shows of itself without being asked.

Invariant: each word is written by the worker alone and stored whole (an aligned 8-byte store), but
words are independent: two of them read together may be from different steps. The front reads.
"""

from bisect import bisect_left
from dataclasses import dataclass
from enum import IntEnum


class Word(IntEnum):
    """Index of a 64-bit unsigned word. Counters only grow during an incarnation."""

    STATE = 0
    STEP = 1  # engine steps done; one that stops moving is how a hang is seen
    BEAT_NS = 2  # CLOCK_MONOTONIC of the last sign of life
    ACTIVE = 3  # sequences in the batch
    WAITING = 4  # requests that have no sequence yet
    KV_TOKENS = 5  # KV cells in use
    STEP_NS = 6  # sum of time in steps
    DECODE_NS = 7  # of it, inside llama_decode
    PREFILL_TOKENS = 8
    DECODE_TOKENS = 9
    FINISHED = 10  # requests that ended
    REUSED_IDLE = 11  # requests that began with cells of an idle sequence,
    REUSED_BUSY = 12  # of one that was running,
    REUSED_RAM = 13  # of a snapshot in memory,
    REUSED_DISK = 14  # of one that came from disk
    REUSED_IDLE_TOKENS = 15
    REUSED_BUSY_TOKENS = 16
    REUSED_RAM_TOKENS = 17
    REUSED_DISK_TOKENS = 18
    REUSED_IDLE_NS = 19  # estimate of the prefill that this spared, less what the copy took
    REUSED_BUSY_NS = 20
    REUSED_RAM_NS = 21
    REUSED_DISK_NS = 22
    SNAPSHOTS = 23  # in memory now
    SNAPSHOT_BYTES = 24
    BATCH_TOKENS = 25  # computed in steps, of any kind


@dataclass(frozen=True, slots=True)
class Spread:
    """How often something had which size: a counter for each bound, and one for what is beyond.

    A value counts for the first bound that it is not over. The words begin at `at`.
    """

    at: int
    bounds: tuple[int, ...]


STEP_TIMES = Spread(  # nanoseconds; the longest ones are whole batches of a large model
    64,
    tuple(
        ms * 1_000_000 for ms in (2, 5, 10, 20, 30, 50, 75, 100, 150, 250, 500, 1000, 2500, 5000)
    ),
)
STEP_SIZES = Spread(96, (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048))  # tokens


class StatusPage:
    """Words over shared memory: `page[Word.STEP]`, `page[Word.STEP] = 7`. Owns `view`."""

    __slots__ = ("_words",)

    def __init__(self, view: memoryview) -> None:
        # Not struct.pack_into: that stores byte by byte, and a reader may see half a word.
        self._words = view.cast("Q")
        view.release()

    def __getitem__(self, word: Word) -> int:
        return self._words[word]

    def __setitem__(self, word: Word, value: int) -> None:
        self._words[word] = value

    def observe(self, spread: Spread, value: int) -> None:
        """Count a value: 0.14 µs, as the step thread does it."""
        self._words[spread.at + bisect_left(spread.bounds, value)] += 1

    def counts(self, spread: Spread) -> tuple[int, ...]:
        """Return how many values each bound has, and last, how many there were beyond."""
        return tuple(self._words[spread.at : spread.at + len(spread.bounds) + 1])

    def release(self) -> None:
        """Let go of the memory; any later access raises ValueError."""
        self._words.release()
