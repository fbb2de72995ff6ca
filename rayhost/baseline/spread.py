"""A figure with its spread: the median and the quartiles of repeated runs. Pure.

Invariant: made of at least `MIN_RUNS` runs, so that no report shows a single measurement.
"""

import statistics
from collections.abc import Sequence

import msgspec

MIN_RUNS = 3


class Spread(msgspec.Struct, frozen=True):
    """The median of `runs` values, between the first and the third quartile."""

    median: float
    low: float
    high: float
    runs: int

    @property
    def relative(self) -> float:
        """Half the distance of the quartiles, as a share of the median."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0

    def inverted(self, scale: float) -> "Spread":
        """Return the spread of `scale / value`: seconds from a rate, a rate from seconds."""
        return Spread(scale / self.median, scale / self.high, scale / self.low, self.runs)


def spread(values: Sequence[float]) -> Spread:
    """Summarise repeated runs. Raises ValueError for fewer than `MIN_RUNS`."""
    if len(values) < MIN_RUNS:
        raise ValueError(f"{len(values)} runs are too few for a spread, {MIN_RUNS} are not")
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high, len(values))
