"""From outcomes to figures, and from pairs of figures to ratios. Pure."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence

import msgspec

from bench.load import Load


class Memory(msgspec.Struct, frozen=True):
    """Peaks of all processes of one server, in bytes.

    RSS counts a page in every process that maps it, PSS (the proportional set size) once in all.
    """

    rss: int
    pss: int


class Figures(msgspec.Struct, frozen=True):
    """One run of one server. A figure is None where no answer gave one. Times in milliseconds.

    Rates and tokens count whole answers only; `errors` counts the others, by what went wrong.
    """

    calls: int
    errors: dict[str, int]
    wall_s: float
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    requests_per_s: float
    tokens_per_s: float
    ttft_p50_ms: float | None
    ttft_p99_ms: float | None
    gap_p50_ms: float | None
    gap_p99_ms: float | None
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    peak_rss_mib: float
    peak_pss_mib: float

    @property
    def failed(self) -> int:
        """Calls without a whole answer."""
        return sum(self.errors.values())


class Spread(msgspec.Struct, frozen=True):
    """A median and the least and greatest value it is the median of."""

    median: float
    low: float
    high: float


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the value that `share` (0 to 1) of the values do not exceed, linearly interpolated.

    None without values. The same as numpy.quantile's default, Hyndman and Fan's type 7.
    """
    if not values:
        return None
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below, above = math.floor(place), math.ceil(place)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def figures(load: Load, memory: Memory) -> Figures:
    """Return what a run came to."""
    whole = [outcome for outcome in load.outcomes if not outcome.error]
    ttfts = [outcome.ttft_s for outcome in whole if outcome.ttft_s is not None]
    gaps = [gap for outcome in whole for gap in outcome.gaps_s]
    latencies = [outcome.latency_s for outcome in whole]
    generated = sum(outcome.generated_tokens for outcome in whole)
    return Figures(
        calls=len(load.outcomes),
        errors=dict(Counter(outcome.error for outcome in load.outcomes if outcome.error)),
        wall_s=load.wall_s,
        prompt_tokens=sum(outcome.prompt_tokens for outcome in whole),
        cached_tokens=sum(outcome.cached_tokens for outcome in whole),
        generated_tokens=generated,
        requests_per_s=len(whole) / load.wall_s,
        tokens_per_s=generated / load.wall_s,
        ttft_p50_ms=_ms(percentile(ttfts, 0.50)),
        ttft_p99_ms=_ms(percentile(ttfts, 0.99)),
        gap_p50_ms=_ms(percentile(gaps, 0.50)),
        gap_p99_ms=_ms(percentile(gaps, 0.99)),
        latency_p50_ms=_ms(percentile(latencies, 0.50)),
        latency_p99_ms=_ms(percentile(latencies, 0.99)),
        peak_rss_mib=memory.rss / 2**20,
        peak_pss_mib=memory.pss / 2**20,
    )


def spread(values: Sequence[float | None]) -> Spread | None:
    """Return median, least and greatest of what is there; None if nothing is."""
    there = [value for value in values if value is not None]
    return Spread(statistics.median(there), min(there), max(there)) if there else None


def ratios(ours: Sequence[float | None], peers: Sequence[float | None]) -> Spread | None:
    """Return the spread of ours / peer's, pair by pair, of the pairs that have both."""
    return spread(
        [
            our / peer if our is not None and peer else None
            for our, peer in zip(ours, peers, strict=True)
        ]
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
