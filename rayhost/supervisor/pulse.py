"""Whether a worker is alive: a pure judgement over samples of its status page and of its process.

Invariant: only time between samples that came on schedule counts against a worker. Where they came
late this process was stalled itself, perhaps with the whole machine, and knows nothing.
"""

from collections.abc import Callable
from pathlib import Path

Signs = tuple[int, ...]  # figures of a process; any of them changes while it does something

TICK_NS = 500_000_000
_LATE_NS = 2 * TICK_NS
# A stopped or deadlocked process shows nothing at all. One with a little CPU of a crowded machine,
# or that waits for pages of its weights, shows CPU ticks (10 ms) and page faults well within these.
SILENT_NS = 4_000_000_000
SILENT_LOADING_NS = 20_000_000_000  # a slow disk: one read may take long
# A process that computes without ending its step. 60 ms a token is 17 tokens of prefill a second.
STEP_NS = 30_000_000_000
_TOKEN_NS = 60_000_000
_SLOWEST_STEPS = 4
LOADING_NS = 600_000_000_000


class Pulse:
    """One worker incarnation. Times are CLOCK_MONOTONIC nanoseconds."""

    def __init__(self, now_ns: int, batch: int) -> None:
        self._looked_ns = now_ns
        self._step_ns = max(STEP_NS, batch * _TOKEN_NS)
        self._beat_ns = 0
        self._signs: Signs | None = None
        self._still_ns = 0  # since the last beat
        self._silent_ns = 0  # since the last sign of any kind

    def resized(self, batch: int) -> None:
        """Expect steps of so many tokens."""
        self._step_ns = max(self._step_ns, batch * _TOKEN_NS)

    def look(self, now_ns: int, beat_ns: int, signs: Callable[[], Signs]) -> str | None:
        """Take a sample; return why the worker must be given up, or None.

        `beat_ns` is 0 until the worker is ready. `signs` is only asked while the beat stands still.
        """
        elapsed_ns, self._looked_ns = now_ns - self._looked_ns, now_ns
        if beat_ns != self._beat_ns:
            self._step_ns = max(self._step_ns, _SLOWEST_STEPS * self._still_ns)
            self._beat_ns, self._signs = beat_ns, None
            self._still_ns = self._silent_ns = 0
            return None
        if elapsed_ns > _LATE_NS:
            return None
        self._still_ns += elapsed_ns
        now_seen = signs()
        self._silent_ns = self._silent_ns + elapsed_ns if now_seen == self._signs else 0
        self._signs = now_seen
        return self._verdict()

    def _verdict(self) -> str | None:
        if self._silent_ns >= (SILENT_NS if self._beat_ns else SILENT_LOADING_NS):
            return f"it showed no sign of life for {self._silent_ns / 1e9:.0f} s"
        if self._still_ns >= (self._step_ns if self._beat_ns else LOADING_NS):
            what = "one step" if self._beat_ns else "loading"
            return f"it did not end {what} within {self._still_ns / 1e9:.0f} s"
        return None


def signs_of(pid: int) -> Signs:
    """Return the CPU ticks, user and system, and the page faults of a process of ours.

    Raises OSError where there is none any more.
    """
    # The name, in parentheses, may hold anything; after it the first field is the state, number 3.
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return tuple(int(fields[number - 3]) for number in (10, 12, 14, 15))
