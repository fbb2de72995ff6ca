"""The status page: what a worker shows of itself without being asked.

Invariant: each word is written by the worker alone and stored whole (an aligned 8-byte store), but
words are independent: two of them read together may be from different steps. The front reads.
"""

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

    def release(self) -> None:
        """Let go of the memory; any later access raises ValueError."""
        self._words.release()
