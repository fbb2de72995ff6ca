"""How long a refused client is told to stay away."""

import pytest

from rayhost.front.drain_rate import DrainRate

S = 1_000_000_000


@pytest.mark.parametrize(
    ("ended_s", "waiting", "seconds"),
    [
        ([], 10, 1),  # nothing is known
        ([5], 10, 1),
        ([5, 7], 0, 1),
        ([5, 7], 3, 6),
        ([0, 1, 2, 3, 4], 7, 7),
        ([0, 0.4], 2, 1),  # whole seconds, rounded up
        ([0, 0.6], 2, 2),
        ([0, 0], 1000, 1),  # at the same instant
        ([0, 30], 100, 60),  # never longer than a minute
    ],
)
def test_retry_after_is_the_measured_time_for_the_queue_to_drain(
    ended_s: list[float], waiting: int, seconds: int
) -> None:
    rate = DrainRate()
    for at_s in ended_s:
        rate.ended(int(at_s * S))
    assert rate.retry_after(waiting) == seconds


def test_only_the_recent_past_counts() -> None:
    rate = DrainRate()
    for at_s in range(0, 1000, 10):
        rate.ended(at_s * S)
    for at_s in range(1000, 1040):
        rate.ended(at_s * S)
    assert rate.retry_after(5) == 5


def test_a_quiet_night_is_not_taken_for_a_slow_queue() -> None:
    rate = DrainRate()
    rate.ended(0)
    rate.ended(1 * S)
    rate.idle()
    rate.ended(30_000 * S)
    rate.ended(30_001 * S)
    assert rate.retry_after(3) == 3
