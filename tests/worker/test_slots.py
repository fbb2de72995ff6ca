"""Which free slot a request gets, and how much of it the slot holds already."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhost.worker.slots import FreeSlots, Taken, common


def slots(*held: list[int]) -> FreeSlots:
    """Return free slots that hold these tokens, the longest unused first."""
    free = FreeSlots(len(held))
    for slot, _ in enumerate(held):
        assert free.take([]).slot == slot
    for slot, tokens in enumerate(held):
        free.give(slot, tokens)
    return free


@pytest.mark.parametrize(
    ("held", "tokens", "taken"),
    [
        ([[], []], [1, 2, 3], Taken(0, 0)),
        ([[], [1, 2, 3]], [1, 2, 3, 4], Taken(1, 3)),
        ([[1, 2], [1, 2, 3]], [1, 2, 3, 4], Taken(1, 3)),  # the most of it
        ([[1, 2, 8, 8], [1, 2, 9]], [1, 2, 3, 4], Taken(1, 2)),  # the one that loses least
        ([[], [1, 2, 3]], [1, 2, 3], Taken(1, 2)),  # the last token is computed anew
        ([[], [1, 9, 9]], [1, 2, 3, 4], Taken(0, 0)),  # less than half: not worth its cells
        ([[1, 9], [7]], [1, 2, 3, 4], Taken(0, 1)),  # but what is there is used
        ([[5], [6]], [1], Taken(0, 0)),
    ],
)
def test_a_request_gets_the_slot_that_suits_it(
    held: list[list[int]], tokens: list[int], taken: Taken
) -> None:
    assert slots(*held).take(tokens) == taken


def test_a_slot_is_given_to_one_at_a_time() -> None:
    free = FreeSlots(2)
    assert {free.take([1]).slot, free.take([1]).slot} == {0, 1}
    assert not free


TOKENS = st.lists(st.integers(0, 2), max_size=8)


@given(TOKENS, TOKENS)
def test_what_two_have_in_common_is_the_beginning_of_both(one: list[int], other: list[int]) -> None:
    length = common(one, other)
    assert one[:length] == other[:length]
    assert one[length : length + 1] != other[length : length + 1] or length == len(one)
