"""Log-probabilities against the softmax in 64 bits."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rayhost.engine.base import Logits
from rayhost.engine.logprobs import IMPOSSIBLE, heaviest, logprob_of

LOGITS = st.one_of(
    st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=60),
    st.lists(st.sampled_from([-3.0, 0.0, 2.0]), min_size=1, max_size=60),
).map(lambda values: np.array(values, np.float32))


def piece(token: int) -> bytes:
    return b"p%d" % token


def name(token: int) -> bytes:
    return b"n%d" % token


@given(LOGITS, st.integers(0, 20), st.data())
def test_they_are_the_logarithms_of_the_softmax(row: Logits, top: int, data: st.DataObject) -> None:
    token = data.draw(st.integers(0, len(row) - 1))
    wide = row.astype(np.float64)
    expected = wide - (wide.max() + math.log(np.exp(wide - wide.max()).sum()))
    told = logprob_of(row, token, top, piece, name)
    assert (told.token, told.piece) == (token, piece(token))
    assert math.isclose(told.logprob, expected[token], abs_tol=1e-4)
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))[:top]
    assert [one.token for one in told.top] == order
    assert [one.piece for one in told.top] == [name(one) for one in order]
    for one in told.top:
        assert math.isclose(one.logprob, expected[one.token], abs_tol=1e-4)


def test_what_is_impossible_has_a_number_that_json_can_tell() -> None:
    row = np.array([0.0, -np.inf], np.float32)
    told = logprob_of(row, 1, 2, piece, name)
    assert told.logprob == told.top[1].logprob == IMPOSSIBLE
    assert told.top[0].logprob == 0.0


def test_the_heaviest_of_equal_ones_are_the_first() -> None:
    row = np.zeros(50, np.float32)
    row[30] = 1.0
    assert heaviest(row, 3) == [30, 0, 1]
    assert heaviest(row, 0) == []
    assert len(heaviest(row, 99)) == 50
