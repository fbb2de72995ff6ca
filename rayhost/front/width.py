"""How many runs with a deadline are computed together: fewer where they end too late. Pure.

Eight runs together each take longer than four. On a box so slow that eight miss their deadlines all
of its work would be for nobody, so the number is found by trying, as TCP finds its window: one more
for a round of runs that ended in time, half as many for one that did not (D. Chiu and R. Jain,
"Analysis of the Increase and Decrease Algorithms for Congestion Avoidance", 1989). Unlike there a
round too wide is lost as a whole, so it grows only where runs ended soon enough for one more.
"""

_SPARE = 0.75  # the share of their time that runs may be expected to take with one more beside them


class Width:
    """Of one model. `most` is what its worker computes together; the lane keeps it up to date."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._width = float(most)
        self._halved_ns = 0

    def __int__(self) -> int:
        return max(1, min(self.most, int(self._width)))

    def kept(self, took_ns: int, allowed_ns: int) -> None:
        """A run with a deadline ended in time, of which it had `allowed_ns` when it came."""
        now = int(self)
        if took_ns * (now + 1) <= _SPARE * allowed_ns * now:
            self._width = min(self.most, self._width + 1 / self._width)

    def missed(self, begun_ns: int, now_ns: int) -> None:
        """One that was begun did not; others that were begun with it say nothing more."""
        if begun_ns >= self._halved_ns:
            self._width = max(1.0, min(self.most, self._width) / 2)
            self._halved_ns = now_ns
