"""How fast a queue moves, measured, so that a refusal can say when to come back."""

import math
from collections import deque

MAX_RETRY_S = 60
_REMEMBERED = 32


class DrainRate:
    """Completions of the recent past. Times are nanoseconds of one clock."""

    def __init__(self) -> None:
        self._ended: deque[int] = deque(maxlen=_REMEMBERED)

    def ended(self, at_ns: int) -> None:
        """A run ended."""
        self._ended.append(at_ns)

    def idle(self) -> None:
        """Nothing is left to end: the pause until the next run says nothing about speed."""
        self._ended.clear()

    def retry_after(self, waiting: int) -> int:
        """Return the whole seconds, 1 to 60, until `waiting` runs will probably have ended.

        1 while fewer than two runs have ended: nothing is known then, and a retry costs little.
        """
        if len(self._ended) < 2:
            return 1
        per_run_s = (self._ended[-1] - self._ended[0]) / (len(self._ended) - 1) / 1e9
        return max(1, min(MAX_RETRY_S, math.ceil(per_run_s * waiting)))
