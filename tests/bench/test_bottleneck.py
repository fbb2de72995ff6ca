"""A load generator that disturbed what it measured says so and reports nothing."""

import pytest

from bench.bottleneck import Bottleneck, Limits, judge
from bench.load import Load


def load(*, cpu_s: float = 0.1, lags_s: tuple[float, ...] = (0.001,) * 100) -> Load:
    return Load((), wall_s=10.0, cpu_s=cpu_s, lags_s=lags_s)


def test_a_light_generator_states_what_it_cost() -> None:
    harness = judge(load(cpu_s=0.3), watcher_cpu_s=0.2, limits=Limits())
    assert harness.cpu_share == pytest.approx(0.05)
    assert harness.lag_p99_ms == pytest.approx(1.0)


def test_one_that_took_the_servers_cpu_is_refused() -> None:
    with pytest.raises(Bottleneck, match=r"11\.0% of a core, more than 10%"):
        judge(load(cpu_s=1.1), watcher_cpu_s=0.0, limits=Limits())


def test_watching_the_memory_counts_too() -> None:
    with pytest.raises(Bottleneck, match=r"of a core"):
        judge(load(cpu_s=0.6), watcher_cpu_s=0.6, limits=Limits())


def test_one_that_ran_late_is_refused() -> None:
    with pytest.raises(Bottleneck, match=r"30\.0 ms late \(p99\), more than 20 ms"):
        judge(load(lags_s=(0.03,) * 100), watcher_cpu_s=0.0, limits=Limits())


def test_one_late_tick_in_many_is_no_reason() -> None:
    assert (
        judge(load(lags_s=(*(0.001,) * 999, 0.5)), watcher_cpu_s=0.0, limits=Limits()).lag_p99_ms
        < 2
    )


def test_a_run_too_short_for_a_tick_was_not_late() -> None:
    assert judge(load(lags_s=()), watcher_cpu_s=0.0, limits=Limits()).lag_p99_ms == 0
