"""How long a lost worker's replacement waits."""

import pytest

from rayhost.supervisor.backoff import FIRST_S, LONGEST_S, delay


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
