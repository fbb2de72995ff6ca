"""Whether the load generator measured the servers or itself. Pure.

On a machine whose cores the server fills, whatever the generator computes is taken from what it
measures, and whenever it waits for a core its stamps are late.
"""

import msgspec

from bench.load import Load
from bench.stats import percentile


class Limits(msgspec.Struct, frozen=True):
    """What measuring may cost."""

    cpu_share: float = 0.10  # of one core
    lag_p99_ms: float = 20.0


class Harness(msgspec.Struct, frozen=True):
    """What measuring cost: the generator and the watcher of the server's memory, as one."""

    cpu_share: float  # of one core
    lag_p99_ms: float  # how late the generator's event loop ran


class Bottleneck(Exception):
    """The harness disturbed what it measured: the figures are not to be reported."""


def judge(load: Load, watcher_cpu_s: float, limits: Limits) -> Harness:
    """Return what measuring cost. Raises Bottleneck if that was too much."""
    share = (load.cpu_s + watcher_cpu_s) / load.wall_s
    lag_ms = (percentile(load.lags_s, 0.99) or 0.0) * 1000
    if share > limits.cpu_share:
        raise Bottleneck(
            f"the load generator used {share:.1%} of a core, more than {limits.cpu_share:.0%}: "
            "it took from the servers what it meant to measure"
        )
    if lag_ms > limits.lag_p99_ms:
        raise Bottleneck(
            f"the load generator ran {lag_ms:.1f} ms late (p99), more than {limits.lag_p99_ms:g} "
            "ms: its times are not the servers'; is something else running on this machine?"
        )
    return Harness(cpu_share=share, lag_p99_ms=lag_ms)
