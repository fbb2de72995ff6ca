"""DRY, against a search of every earlier place for the longest repetition."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rayhost.engine.dry import dry
from rayhost.ipc.sampling import Dry

PIECES = (b"a", b"b", b"c", b"d", b"x.", b". y", b"-", b"-=", b"=")
TOKENS = st.lists(st.integers(0, 3), max_size=40)


def piece(token: int) -> bytes:
    return PIECES[token]


def penalties(tokens: list[int], options: Dry) -> list[float]:
    row = np.zeros(len(PIECES), np.float32)
    dry(row, tokens, options, piece)
    return [-one for one in row.tolist()]


def reference(tokens: list[int], options: Dry) -> list[float]:
    """Without breakers: for each token the longest end of the text that it followed before."""
    recent = tokens if options.last_n < 0 else tokens[max(0, len(tokens) - options.last_n) :]
    longest = dict.fromkeys(range(len(PIECES)), 0)
    for after in range(1, len(recent)):
        length = 0
        while length < after and recent[after - 1 - length] == recent[-1 - length]:
            length += 1
        longest[recent[after]] = max(longest[recent[after]], length)
    return [
        options.multiplier * options.base ** (length - options.allowed_length)
        if length >= options.allowed_length
        else 0.0
        for length in longest.values()
    ]


@settings(max_examples=400)
@given(TOKENS, st.integers(1, 4), st.sampled_from([-1, 0, 1, 5, 100]))
@example([0, 1, 2, 2, 1, 2, 3, 0, 1, 2], 1, -1)
def test_a_token_is_penalised_by_the_repetition_that_it_would_make_longer(
    tokens: list[int], allowed: int, last_n: int
) -> None:
    options = Dry(0.5, 1.05, allowed, last_n, ())
    assert penalties(tokens, options) == pytest.approx(reference(tokens, options), rel=1e-5)


def test_the_example_of_the_documentation() -> None:
    # llama.cpp's: after "a b c c b c y a b c", c would make 4 of 3, b 2 of 1, y 3 of 2.
    tokens = [0, 1, 2, 2, 1, 2, 3, 0, 1, 2]
    assert penalties(tokens, Dry(1.0, 2.0, 1, -1, ()))[:4] == pytest.approx([0, 1, 4, 2])


@pytest.mark.parametrize(
    ("tokens", "breakers", "penalised"),
    [
        ([0, 1, 2, 0, 1], (), True),
        ([0, 1, 2, 0, 1], ("z",), True),
        ([0, 4, 2, 0, 4], (".",), False),  # the breaker is the last token
        ([0, 4, 1, 2, 3, 0, 4, 1], (".",), False),  # one token after it: less than two
        ([4, 0, 1, 2, 4, 0, 1], (".",), True),  # two
        ([6, 8, 0, 1, 6, 8, 0], ("-=",), False),  # over the border of two tokens
        ([7, 1, 0, 2, 7, 1, 0], ("-=",), True),
    ],
)
def test_no_repetition_goes_across_a_breaker(
    tokens: list[int], breakers: tuple[str, ...], penalised: bool
) -> None:
    assert any(penalties(tokens, Dry(1.0, 2.0, 2, -1, breakers))) is penalised


def test_a_breaker_itself_is_never_penalised() -> None:
    tokens = [0, 1, 4, 2, 0, 1]
    assert penalties(tokens, Dry(1.0, 2.0, 2, -1, (".",)))[4] == 0
    assert penalties(tokens, Dry(1.0, 2.0, 2, -1, ()))[4] > 0


@pytest.mark.parametrize("base", [1.0, 1.001, 1.75, 100.0])
@pytest.mark.parametrize("multiplier", [1e-6, 0.8, 100.0])
def test_however_long_the_repetition_the_penalty_is_finite(base: float, multiplier: float) -> None:
    (penalty, *others) = penalties([0] * 5000, Dry(multiplier, base, 2, -1, ()))
    assert 0 < penalty <= 1000
    assert math.isfinite(penalty)
    assert not any(others)


@pytest.mark.parametrize("tokens", [[], [0], [0, 0]])
def test_a_short_text_repeats_nothing(tokens: list[int]) -> None:
    assert not any(penalties(tokens, Dry(1.0, 1.75, 2, -1, ())))


def test_a_multiplier_near_the_smallest_of_floats_takes_nothing() -> None:
    assert not any(penalties([0] * 50, Dry(2.3e-309, 1.75, 2, -1, ())))
