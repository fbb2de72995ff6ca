"""Sampling against a plain float64 reference that sorts everything."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rayhost.engine.base import EngineFailed, Int32
from rayhost.engine.draws import uniform
from rayhost.engine.penalties import penalise
from rayhost.engine.sampling import Sampler
from rayhost.engine.truncation import shortlist
from rayhost.ipc.sampling import Dry, Mirostat, Sampling, Xtc

Floats = NDArray[np.float64]


@dataclass
class Run:
    """A sequence as the sampler sees it."""

    sampling: Sampling
    tokens: list[int] = field(default_factory=lambda: [0])
    n_prompt: int = 1
    mu: float | None = None


class Letters:
    """A vocabulary of single letters, of which the first ends an answer."""

    def piece(self, token: int) -> bytes:
        return b"abcdefghijklmnopqrstuvwxyz"[token : token + 1]

    def end_tokens(self) -> Int32:
        return np.array([0], np.int32)


def choose(logits: Any, run: Run) -> int:
    """Sample one row."""
    row = np.array([logits], np.float32)
    (token,) = Sampler(row.shape[1], Letters()).sample(row, [run])
    return token


def weigh(logits: NDArray[np.float32], temperature: float) -> Floats:
    """Return unnormalised probabilities, the heaviest being 1."""
    wide = logits.astype(np.float64)
    scaled: Floats = np.exp((wide - wide.max()) / temperature)
    return scaled


def reference_shortlist(
    weights: Floats, top_k: int, top_p: float, min_p: float
) -> tuple[list[int], bool]:
    """Return the surviving ids and whether a cut came so near a border that rounding decides."""
    order = sorted(range(len(weights)), key=lambda token: (-weights[token], token))
    if top_k:
        order = order[:top_k]
    near = False
    if top_p < 1.0:
        share = np.cumsum(weights[order]) / weights[order].sum()
        near = bool(np.any(np.abs(share - top_p) < 1e-6))
        order = order[: int(np.argmax(share >= top_p)) + 1]
    if min_p:
        near = near or bool(np.any(np.abs(weights[order] / min_p - 1) < 1e-6))
        order = [token for token in order if weights[token] >= min_p]
    return order, near


LOGITS = st.one_of(
    st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=60),
    st.lists(st.sampled_from([-3.0, -1.0, 0.0, 2.0]), min_size=1, max_size=60),  # ties
).map(lambda values: np.array(values, np.float32))
OPTIONS = {
    "temperature": st.floats(0.05, 3),
    "top_k": st.integers(0, 70),
    "top_p": st.just(1.0) | st.floats(0.01, 0.9999),
    "min_p": st.just(0.0) | st.floats(1e-7, 1.0),
}


@settings(max_examples=400)
@given(LOGITS, st.fixed_dictionaries(OPTIONS))
@example(np.zeros(40, np.float32), {"temperature": 1.0, "top_k": 7, "top_p": 1.0, "min_p": 0.0})
def test_the_shortlist_is_what_sorting_everything_gives(
    logits: NDArray[np.float32], options: dict[str, Any]
) -> None:
    wide = weigh(logits, options.pop("temperature"))
    # What the sampler works on, so that both sort the same numbers; float32 has fewer ties apart.
    weights = wide.astype(np.float32)
    expected, near = reference_shortlist(weights.astype(np.float64), **options)
    ids = shortlist(weights, **options)
    assert len(ids) >= 1
    if near:  # one more or less, depending on how the sum was rounded
        longer, shorter = sorted((ids.tolist(), expected), key=len, reverse=True)
        assert longer[: len(shorter)] == shorter
        assert set(weights[longer[len(shorter) :]].tolist()) <= {weights[longer[-1]]}
    else:
        assert ids.tolist() == expected


@pytest.mark.parametrize("size", [50, 5000])
@pytest.mark.parametrize("flat", [0.001, 0.3, 8.0])
@pytest.mark.parametrize(
    "options",
    [
        (0, 0.9, 0.0),
        (40, 0.9, 0.05),
        (0, 0.9999999, 0.0),
        (0, 1.0, 5e-4),
        (0, 1.0, 5e-7),
        (0, 0.9999999, 5e-4),
    ],
    ids=str,
)
def test_however_flat_the_distribution_no_cut_comes_too_early(
    size: int, flat: float, options: tuple[int, float, float]
) -> None:
    logits = np.random.default_rng(size).normal(0, flat, size).astype(np.float32)
    weights = weigh(logits, 1.0).astype(np.float32)
    expected, near = reference_shortlist(weights.astype(np.float64), *options)
    slack = 3 if 0.999 < options[1] < 1.0 else 0  # there, several tokens are as near as rounding
    assert slack or not near
    ids = shortlist(weights, *options).tolist()
    assert abs(len(ids) - len(expected)) <= slack
    assert ids == [*expected, *ids[len(expected) :]][: len(ids)]


def chi_square(counts: Floats, expected: Floats) -> float:
    """Return the statistic over the classes that are expected at all."""
    seen = expected > 0
    assert counts[~seen].sum() == 0
    return float((((counts - expected) ** 2)[seen] / expected[seen]).sum())


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"top_k": 4},
        {"top_p": 0.8},
        {"min_p": 0.2},
        {"temperature": 1.3, "top_k": 7, "top_p": 0.9, "min_p": 0.1},
    ],
    ids=str,
)
def test_tokens_are_drawn_as_often_as_their_probability_says(options: dict[str, Any]) -> None:
    logits = np.array([2.0, 1.5, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -30.0, -np.inf], np.float32)
    sampling = Sampling(**options)
    weights = weigh(logits, sampling.temperature)
    kept, near = reference_shortlist(weights, sampling.top_k, sampling.top_p, sampling.min_p)
    assert not near
    probabilities = np.zeros(len(logits))
    probabilities[kept] = weights[kept] / weights[kept].sum()
    draws = 4000
    counts = np.zeros(len(logits))
    for seed in range(draws):
        counts[choose(logits, Run(Sampling(seed=seed, **options)))] += 1
    probabilities[probabilities < 1e-9] = 0
    # 99.9 % of chi-square with 9 degrees of freedom; the seeds are fixed, so this is no lottery.
    assert chi_square(counts, draws * probabilities) < 27.9


def test_positions_of_one_run_draw_independently() -> None:
    logits = np.zeros(4, np.float32)
    counts = np.zeros((4, 4))
    tokens = [0]
    for _ in range(4000):
        before = tokens[-1]
        tokens.append(choose(logits, Run(Sampling(seed=3), tokens)))
        counts[before, tokens[-1]] += 1
    # 99.9 % with 15 degrees of freedom.
    assert chi_square(counts, np.full((4, 4), 250.0)) < 37.7


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**31))
def test_a_draw_is_at_least_zero_and_below_one(seed: int, position: int) -> None:
    assert 0.0 <= uniform(seed, position) < 1.0


@pytest.mark.parametrize(
    ("seed", "position", "draw"),
    [
        (0, 0, 0.8150393007738989),
        (0, 1, 0.05071536621339856),
        (1, 0, 0.15213972808574683),
        (42, 100, 0.1622881003812816),
        (18446744073709551615, 2147483648, 0.14237315944543394),
    ],
)
def test_draws_never_change_between_versions(seed: int, position: int, draw: float) -> None:
    assert uniform(seed, position) == draw


@given(st.integers(0, 2**64 - 1), st.integers(1, 40), st.integers(0, 40))
def test_a_draw_is_that_of_the_place_in_prompt_and_answer_together(
    seed: int, n_prompt: int, generated: int
) -> None:
    run = Run(Sampling(seed=seed), [0] * (n_prompt + generated), n_prompt)
    assert choose([0.0] * 64, run) == int(uniform(seed, n_prompt + generated) * 64)


@given(LOGITS, st.integers(0, 2**64 - 1), st.fixed_dictionaries(OPTIONS))
def test_a_draw_depends_on_seed_and_position_alone(
    logits: NDArray[np.float32], seed: int, options: dict[str, Any]
) -> None:
    sampling = Sampling(seed=seed, **options)
    run, another = Run(sampling, [0, 0, 0]), Run(Sampling(temperature=0.0), [0])
    size = len(logits)
    alone = Sampler(size, Letters()).sample(logits[None].copy(), [run])
    noise = np.linspace(-9, 9, size, dtype=np.float32)
    beside = Sampler(size, Letters()).sample(
        np.array([noise, logits, noise]), [another, run, another]
    )
    assert beside[1] == alone[0]


@pytest.mark.parametrize("draw", [0.0, 1 - 2.0**-53])
@pytest.mark.parametrize("options", [{}, {"top_p": 0.999}, {"top_k": 9}], ids=str)
def test_the_extreme_draws_never_choose_an_impossible_token(
    draw: float, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayhost.engine.sampling.uniform", lambda seed, position: draw)
    logits = [-np.inf, -1e30, 0.1, 0.3, 0.2, -1e30, -np.inf]
    assert choose(logits, Run(Sampling(**options))) in (2, 3, 4)


@given(LOGITS)
def test_greedy_is_the_first_of_the_best(logits: NDArray[np.float32]) -> None:
    assert choose(logits, Run(Sampling(temperature=0.0))) == logits.tolist().index(max(logits))


@pytest.mark.parametrize("temperature", [1e-300, 1e-45, 1e-10])
@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.1}], ids=str)
def test_a_tiny_temperature_is_greedy(temperature: float, options: dict[str, Any]) -> None:
    logits = [0.0, 5.0, 4.999, -1e30, -np.inf]
    for seed in range(20):
        run = Run(Sampling(temperature=temperature, seed=seed, **options))
        assert choose(logits, run) == 1


@pytest.mark.parametrize("temperature", [1e6, 1e39, 1e300])
def test_a_huge_temperature_is_uniform_over_what_is_possible(temperature: float) -> None:
    logits = [0.0, 5.0, -np.inf, -5.0]
    drawn = [
        choose(logits, Run(Sampling(temperature=temperature, seed=seed))) for seed in range(300)
    ]
    assert min(drawn.count(token) for token in (0, 1, 3)) > 60
    assert drawn.count(2) == 0


@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.5}], ids=str)
@pytest.mark.parametrize("temperature", [0.0, 0.01, 1.0])
def test_logits_of_any_size_are_sampled(temperature: float, options: dict[str, Any]) -> None:
    run = Run(Sampling(temperature=temperature, **options))
    assert choose([-np.inf, 1e30, -1e30, -3e38], run) == 1
    assert choose([-3.4e38, 3.4e38, -np.inf], run) == 1


@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.5}], ids=str)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "logits", [[0.0, np.nan, 1.0], [np.nan] * 3, [0.0, np.inf, 1.0], [-np.inf] * 3], ids=str
)
def test_a_row_with_nothing_to_choose_from_condemns_the_engine(
    logits: list[float], temperature: float, options: dict[str, Any]
) -> None:
    with pytest.raises(EngineFailed, match="logit of"):
        choose(logits, Run(Sampling(temperature=temperature, **options)))


@given(
    st.lists(st.floats(-30, 30, width=32), min_size=6, max_size=6),
    st.lists(st.integers(0, 5), min_size=1, max_size=12),
    st.integers(0, 12),
    st.sampled_from([0.0, 0.5, -2.0]),
    st.sampled_from([0.0, 0.25, 2.0]),
    st.sampled_from([1.0, 0.01, 1.3, 10.0]),
)
def test_penalties_are_those_of_the_formulas(
    logits: list[float],
    tokens: list[int],
    n_prompt: int,
    presence: float,
    frequency: float,
    repeat: float,
) -> None:
    n_prompt = min(n_prompt, len(tokens))
    sampling = Sampling(
        presence_penalty=presence, frequency_penalty=frequency, repeat_penalty=repeat
    )
    row = np.array(logits, np.float32)
    penalise(row, Run(sampling, tokens, n_prompt))

    expected = list(logits)
    for token in range(6):
        if token in tokens:
            expected[token] *= 1 / repeat if expected[token] > 0 else repeat
        count = tokens[n_prompt:].count(token)
        expected[token] -= frequency * count + presence * (count > 0)
    assert row.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_a_penalised_token_may_lose_its_lead() -> None:
    sampling = Sampling(temperature=0.0, frequency_penalty=0.5)
    assert choose([1.0, 1.6], Run(sampling, [0, 1], n_prompt=1)) == 1
    assert choose([1.0, 1.6], Run(sampling, [0, 1, 1], n_prompt=1)) == 0
    assert choose([1.0, 1.6], Run(sampling, [0, 1, 1], n_prompt=3)) == 1  # the prompt is free


def test_the_penalties_look_back_as_far_as_they_are_told() -> None:
    tokens = [1, 2, 3, 4, 5]
    for last_n, seen in ((-1, {1, 2, 3, 4, 5}), (2, {4, 5}), (0, set()), (99, {1, 2, 3, 4, 5})):
        row = np.ones(6, np.float32)
        penalise(row, Run(Sampling(repeat_penalty=2.0, repeat_last_n=last_n), tokens, 2))
        assert {int(token) for token in np.flatnonzero(row == 0.5)} == seen
        row = np.ones(6, np.float32)
        penalise(row, Run(Sampling(presence_penalty=1.0, repeat_last_n=last_n), tokens, 4))
        assert {int(token) for token in np.flatnonzero(row == 0)} == seen & {5}


def test_a_bias_is_added_before_all_else() -> None:
    biased = Sampling(temperature=0.0, logit_bias=((1, 5.0), (2, -100.0)))
    assert choose([3.0, 0.0, 4.0], Run(biased)) == 1
    banned = Sampling(logit_bias=((2, -100.0),))
    assert {choose([0.0, 0.0, 9.0], Run(banned, [0] * n)) for n in range(1, 40)} == {0, 1}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_that_may_not_end_does_not(temperature: float) -> None:
    sampling = Sampling(temperature=temperature, ignore_eos=True)
    assert {choose([50.0, 1.0, 1.0], Run(sampling, [0] * n)) for n in range(1, 30)} <= {1, 2}


def test_dry_keeps_a_greedy_run_from_repeating_itself() -> None:
    tokens = [1, 2, 3, 4, 1, 2, 3]
    plain = Sampling(temperature=0.0)
    kept = Sampling(temperature=0.0, dry=Dry(2.0, 2.0, 2, -1, ()))
    logits = [0.0, 0.0, 0.0, 0.0, 1.0, 0.5]
    assert choose(logits, Run(plain, tokens)) == 4
    assert choose(logits, Run(kept, tokens)) == 5


def test_top_choices_are_excluded_as_often_as_their_probability_says() -> None:
    logits = [2.0, 2.0, -20.0]
    xtc = Sampling(temperature=1.0, xtc=Xtc(0.25, 0.3))
    counts = [0, 0, 0]
    for position in range(1, 4001):
        counts[choose(logits, Run(xtc, [0] * position))] += 1
    # Of two equal ones the first goes, in a quarter of the draws: 3/8 and 5/8. 99.9 %, 1 degree.
    assert chi_square(np.array(counts[:2], float), np.array([1500.0, 2500.0])) < 10.9
    assert counts[2] == 0


@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_p": 0.9999}], ids=str)
def test_the_top_choice_is_excluded_with_and_without_a_shortlist(options: dict[str, Any]) -> None:
    sampling = Sampling(xtc=Xtc(1.0, 0.1), **options)
    assert {choose([2.0, 1.0, -30.0], Run(sampling, [0] * n)) for n in range(1, 40)} == {1}


SHAPED: list[dict[str, Any]] = [
    {"typical_p": 0.5},
    {"typical_p": 0.5, "top_k": 5, "top_p": 0.9, "min_p": 0.05},
    {"xtc": Xtc(0.5, 0.1)},
    {"dry": Dry(0.8, 1.75, 1, -1, (".",))},
    {"logit_bias": ((1, 3.0),), "ignore_eos": True},
    {"mirostat": Mirostat(1, 3.0, 0.1)},
    {"mirostat": Mirostat(2, 3.0, 0.1)},
]


@pytest.mark.parametrize("options", SHAPED, ids=str)
def test_however_it_is_shaped_a_draw_is_a_function_of_seed_and_position(
    options: dict[str, Any],
) -> None:
    logits = np.random.default_rng(2).normal(0, 2, 26)
    tokens = [3, 4, 5, 3, 4]

    def draw(seed: int, mu: float | None = None) -> int:
        return choose(logits, Run(Sampling(seed=seed, **options), list(tokens), 1, mu))

    drawn = [draw(seed) for seed in range(60)]
    assert drawn == [draw(seed) for seed in range(60)]
    assert len(set(drawn)) > 1
