"""Mirostat against its formulas, and the state that a resumed run needs."""

import itertools
import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rayhost.engine.base import Logits
from rayhost.engine.mirostat import after, truncate
from rayhost.engine.sampling import Sampler
from rayhost.ipc.sampling import Mirostat, Sampling
from tests.engine.test_sampling import Letters, Run

LOGITS = st.lists(st.floats(-12, 12, width=32), min_size=2, max_size=60, unique=True).map(
    lambda values: np.array(values, np.float32)
)
ONE, TWO = Mirostat(1, 5.0, 0.1), Mirostat(2, 5.0, 0.1)


def weigh(logits: Logits) -> Logits:
    weights: Logits = np.exp(logits - logits.max())
    return weights


def rank_by_the_paper(probabilities: NDArray[np.float64], mu: float) -> float:
    """Equations 30 and 33, for probabilities in falling order."""
    first = probabilities[:100]
    t = [math.log((i + 2) / (i + 1)) for i in range(len(first) - 1)]
    b = [math.log(one / other) for one, other in itertools.pairwise(first)]
    s = sum(x * y for x, y in zip(t, b, strict=True)) / sum(x * x for x in t)
    epsilon = s - 1
    inner: float = epsilon * 2**mu / (1 - len(probabilities) ** -epsilon)
    most = math.log(inner) / s  # as a power it may be too large for a number
    return math.exp(min(most, 50.0))


@settings(max_examples=300)
@given(LOGITS, st.floats(0, 12))
def test_the_first_version_leaves_as_many_as_the_paper_says(logits: Logits, mu: float) -> None:
    weights = weigh(logits)
    probabilities = np.sort(weights.astype(np.float64))[::-1]
    if probabilities[-1] == 0.0 or len(np.unique(weights)) < len(weights):
        return
    probabilities /= probabilities.sum()
    exact = rank_by_the_paper(probabilities, mu)
    left = weights.copy()
    truncate(left, ONE, mu)
    count = int(np.count_nonzero(left))
    if abs(exact - round(exact)) > 1e-3 * exact or exact > 2 * len(weights):
        assert count == min(len(weights), max(1, int(exact)))
    assert set(np.argsort(-weights, kind="stable")[:count].tolist()) == set(
        np.flatnonzero(left).tolist()
    )


@settings(max_examples=300)
@given(LOGITS, st.floats(-5, 20))
def test_the_second_version_leaves_those_of_at_most_that_surprise(
    logits: Logits, mu: float
) -> None:
    weights = weigh(logits)
    surprise = -np.log2(weights.astype(np.float64) / weights.sum(dtype=np.float64))
    left = weights.copy()
    truncate(left, TWO, mu)
    expected = {int(i) for i in np.flatnonzero(surprise <= mu)} or {int(weights.argmax())}
    if np.abs(surprise - mu).min() > 1e-5:
        assert set(np.flatnonzero(left).tolist()) == expected


@pytest.mark.parametrize("options", [ONE, TWO])
@pytest.mark.parametrize("mu", [-1e300, -1.0, 0.0, 1.0, 1e300])
@pytest.mark.parametrize(
    "logits", [[0.0], [1.0, 1.0, 1.0], [5.0, -np.inf, -np.inf], [0.0, -3e38], [3.0, 2.0, -1.0]]
)
def test_no_state_leaves_nothing(options: Mirostat, mu: float, logits: list[float]) -> None:
    weights = weigh(np.array(logits, np.float32))
    truncate(weights, options, mu)
    assert weights.max() == 1.0


def test_the_state_falls_after_a_surprise_and_rises_after_none() -> None:
    assert after(10.0, TWO, 2.0**-8) == pytest.approx(10.0 - 0.1 * (8 - 5))
    assert after(10.0, TWO, 1.0) == pytest.approx(10.5)


@pytest.mark.parametrize("version", [1, 2])
def test_the_surprise_of_what_is_drawn_follows_the_target(version: Literal[1, 2]) -> None:
    means = []
    for target in (1.0, 2.5, 4.0):
        sampler = Sampler(400, Letters())
        run = Run(Sampling(seed=5, mirostat=Mirostat(version, target, 0.2)))
        surprises = []
        for step in range(400):
            row = np.random.default_rng(step).normal(0, 2.5, 400).astype(np.float32)
            chances = weigh(row).astype(np.float64)
            (token,) = sampler.sample(row[None].copy(), [run])
            surprises.append(-math.log2(chances[token] / chances.sum()))
            run.tokens.append(token)
        means.append(float(np.mean(surprises[100:])))
    assert means[0] + 0.5 < means[1]
    assert means[1] + 0.5 < means[2]


@pytest.mark.parametrize("options", [ONE, TWO])
def test_a_run_goes_on_from_its_state_as_it_would_have(options: Mirostat) -> None:
    rows = np.random.default_rng(3).normal(0, 2, (40, 100)).astype(np.float32)

    def go_on(run: Run, rows: Logits) -> None:
        for row in rows:
            run.tokens += Sampler(100, Letters()).sample(row[None].copy(), [run])

    whole = Run(Sampling(seed=9, mirostat=options))
    go_on(whole, rows)
    first = Run(Sampling(seed=9, mirostat=options))
    go_on(first, rows[:17])
    second = Run(first.sampling, first.tokens, first.n_prompt, first.mu)
    go_on(second, rows[17:])
    assert second.tokens == whole.tokens
    assert second.mu == whole.mu
    forgetful = Run(first.sampling, first.tokens[:18], first.n_prompt)
    go_on(forgetful, rows[17:])
    assert forgetful.mu != whole.mu
