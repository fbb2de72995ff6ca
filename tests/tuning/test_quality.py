"""How far two models' predictions are apart, and which distance is too far."""

import numpy as np
import pytest

from rayhost.tuning.quality import Limits, Rows, Tally, log_softmax
from rayhost.tuning.tasks import Judged


def judged(reference: Rows, candidate: Rows, following: list[int]) -> Judged:
    tally = Tally()
    tally.add(reference, candidate, np.asarray(following, np.int64))
    return tally.judged()


def logits(*probabilities: list[float]) -> Rows:
    rows: Rows = np.log(np.asarray(probabilities)).astype(np.float32)
    return rows


def test_a_model_is_no_way_from_itself() -> None:
    rows = np.random.default_rng(0).normal(0, 3, (20, 50)).astype(np.float32)
    same = judged(rows, rows + 7.0, list(range(20)))  # adding a constant changes nothing
    assert same.divergence == pytest.approx(0, abs=1e-6)
    assert same.agreement == 1
    assert same.perplexity == pytest.approx(same.reference_perplexity)


def test_the_figures_are_those_of_their_formulas() -> None:
    found = judged(
        logits([0.5, 0.25, 0.25], [0.6, 0.2, 0.2]),
        logits([0.25, 0.5, 0.25], [0.6, 0.2, 0.2]),
        [0, 1],
    )
    first = 0.5 * np.log(2) + 0.25 * np.log(0.5)
    assert found.divergence == pytest.approx(first / 2, abs=1e-6)
    assert found.agreement == 0.5
    assert found.reference_perplexity == pytest.approx((0.5 * 0.2) ** -0.5, rel=1e-5)
    assert found.perplexity == pytest.approx((0.25 * 0.2) ** -0.5, rel=1e-5)
    assert found.positions == 2


def test_positions_add_up_over_chunks() -> None:
    random = np.random.default_rng(1)
    known, tried = (random.normal(0, 2, (30, 40)).astype(np.float32) for _ in range(2))
    follows = random.integers(0, 40, 30)
    tally = Tally()
    for part in (slice(0, 7), slice(7, 30)):
        tally.add(known[part], tried[part], follows[part])
    assert tally.judged().divergence == pytest.approx(
        judged(known, tried, follows.tolist()).divergence
    )


def test_large_logits_do_not_overflow() -> None:
    rows = np.asarray([[1e4, 0, -1e4]], np.float32)
    assert np.exp(log_softmax(rows)).sum() == pytest.approx(1)


def test_a_text_without_positions_judges_nothing() -> None:
    with pytest.raises(ValueError, match="too short"):
        Tally().judged()


GOOD = Judged(0.02, 0.95, 10.1, 10.0, 1000)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (Judged(0.2, 0.95, 10.1, 10.0, 1000), "KL divergence 0.200 is above 0.1"),
        (Judged(0.02, 0.7, 10.1, 10.0, 1000), "top-1 agreement 0.700 is below 0.8"),
        (Judged(0.02, 0.95, 12.0, 10.0, 1000), "perplexity ratio 1.200 is above 1.1"),
        (Judged(float("nan"), 0.95, 10.1, 10.0, 1000), "KL divergence nan is above 0.1"),
    ],
)
def test_each_limit_is_kept_alone(bad: Judged, told: str) -> None:
    assert Limits().broken(GOOD) == ()
    assert Limits().broken(bad) == (told,)


def test_limits_can_be_widened() -> None:
    bad = Judged(0.63, 0.64, 13.3, 10.0, 1000)
    assert len(Limits().broken(bad)) == 3
    assert Limits(1.0, 0.5, 1.5).broken(bad) == ()
