"""How long a lost worker's replacement waits."""

import pytest

from rayhost.supervisor.backoff import FIRST_S, LONGEST_S, after, delay


@pytest.mark.parametrize(
    ("failures", "jitter", "seconds"),
    [
        (1, 0.0, FIRST_S / 2),
        (1, 1.0, FIRST_S),
        (2, 1.0, FIRST_S * 2),
        (3, 1.0, FIRST_S * 4),
        (3, 0.5, FIRST_S * 3),
        (8, 1.0, FIRST_S * 128),
        (9, 1.0, LONGEST_S),
        (10_000, 1.0, LONGEST_S),
        (10_000, 0.0, LONGEST_S / 2),
    ],
)
def test_the_wait_doubles_up_to_a_bound_and_is_spread(
    failures: int, jitter: float, seconds: float
) -> None:
    assert delay(failures, jitter) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("failures", "served_s", "then"),
    [(0, 0.0, 1), (1, 0.0, 2), (1, 0.9, 2), (1, 1.0, 1), (9, 0.3, 10), (9, 2.5, 8), (9, 3600.0, 1)],
)
def test_every_second_of_service_makes_up_for_a_loss(
    failures: int, served_s: float, then: int
) -> None:
    assert after(failures, served_s) == then


def test_a_worker_killed_every_three_seconds_is_always_replaced_at_once() -> None:
    failures = 0
    for _ in range(100):
        failures = after(failures, 2.0)  # a second goes into loading
        assert delay(failures, 1.0) == FIRST_S
