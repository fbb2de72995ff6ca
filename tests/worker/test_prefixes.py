"""Which slot a request gets, and which beginning that exists already."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhost.ipc.messages import Sampling
from rayhost.worker.output import TextStream
from rayhost.worker.prefixes import MIN_SHARED, Place, Prefixes, Promise, Source, common
from rayhost.worker.sequence import Sequence
from rayhost.worker.snapshots import Snapshots

A = [1] * MIN_SHARED  # beginnings worth reusing
B = [2] * MIN_SHARED
COLD = Source("cold")


def prefixes(*held: list[int], trims: bool = True) -> Prefixes:
    """Return idle slots that hold these tokens, the longest unused first."""
    found = Prefixes(len(held), Snapshots(0), trims=trims)
    for slot, _ in enumerate(held):
        assert found.place([0], ()).slot == slot
    for slot, tokens in enumerate(held):
        found.give(slot, tokens)
    return found


def running(tokens: list[int], computed: int, slot: int = 9) -> Sequence:
    return Sequence(1, tokens, len(tokens), 1, Sampling(), TextStream(), slot, computed)


@pytest.mark.parametrize(
    ("held", "tokens", "place"),
    [
        ([[], []], [*A, 3], Place(0, COLD, None, [])),
        ([[], A], [*A, 3], Place(1, Source("idle", 16, 1), None, [])),
        ([A, [*A, 4]], [*A, 4, 5], Place(1, Source("idle", 17, 1), None, [])),  # the most of it
        ([[*A, 8, 8], [*A, 9]], [*A, 4], Place(1, Source("idle", 16, 1), None, [])),
        ([[], A], A, Place(0, COLD, None, [])),  # 15 without the last: not worth it
        ([[], [*A, *B, *B]], [*A, 3], Place(0, Source("idle", 16, 1), None, [])),  # a copy
        ([[1, 1, 5], [7]], [*A, 3], Place(0, Source("idle", 2, 0), None, [])),  # by chance
        ([B, [7]], [*A, 3], Place(0, COLD, None, B)),  # what the slot loses
        ([[*A, *B], [7]], [*A, 3], Place(0, Source("idle", 16, 0), None, [*A, *B])),
        ([[5], [6]], [1], Place(0, COLD, None, [])),
    ],
)
def test_a_request_gets_the_slot_and_the_beginning_that_suit_it(
    held: list[list[int]], tokens: list[int], place: Place
) -> None:
    assert prefixes(*held).place(tokens, ()) == place


def test_a_beginning_is_copied_from_a_running_sequence_that_has_it() -> None:
    busy = running([*A, *B, 7], computed=40)
    place = prefixes([]).place([*A, *B, 5], [busy])
    assert place == Place(0, Source("busy", 32, 9), None, [])


def test_a_request_waits_for_one_that_is_computing_its_beginning() -> None:
    busy = running([*A, *B, 7], computed=3)
    place = prefixes([]).place([*A, *B, 5], [busy])
    assert place == Place(0, COLD, Promise(busy, 32), [])


def test_it_does_not_wait_for_little_more_than_there_is() -> None:
    busy = running([*A, *B, 7], computed=20)
    place = prefixes([]).place([*A, *B, 5], [busy])
    assert place.promise is None
    assert place.source == Source("busy", 20, 9)


def test_a_slot_that_was_copied_from_is_the_last_to_be_replaced() -> None:
    slots = prefixes([5], [*A, *B, *B], [8])
    assert slots.place([*A, 3], ()) == Place(0, Source("idle", 16, 1), None, [])
    assert slots.place([9], ()).slot == 2
    assert slots.place([9], ()).slot == 1


@pytest.mark.parametrize(
    ("held", "tokens", "source"),
    [
        (A, [*A, 3], Source("idle", 16, 0)),
        ([*A, 4], [*A, 3], COLD),  # its cells cannot be cut
    ],
)
def test_cells_that_cannot_be_trimmed_are_used_whole_or_not_at_all(
    held: list[int], tokens: list[int], source: Source
) -> None:
    assert prefixes(held, trims=False).place(tokens, ()).source == source


def test_of_a_running_sequence_that_cannot_be_trimmed_only_its_very_end_is_used() -> None:
    ahead, there = running([*A, *B, 7], computed=20), running([*A, *B, 7], computed=16)
    slots = prefixes([], [], trims=False)
    assert slots.place([*A, 5], [ahead]).source == COLD
    assert slots.place([*A, 5], [there]).source == Source("busy", 16, 9)


def test_what_was_shared_but_could_not_be_used_is_kept_for_the_next() -> None:
    slots = prefixes([*A, 4], [], trims=False)
    assert slots.checkpoint([*A, 5, 6], (), 0) == 16
    assert slots.checkpoint([*A, 5, 6], (), 16) == 0
    assert prefixes([*A, 4]).checkpoint([*A, 5, 6], (), 0) == 0  # cells that can be cut


TOKENS = st.lists(st.integers(0, 1), max_size=140)


@given(TOKENS, TOKENS, st.integers(0, 140))
def test_what_two_have_in_common_is_the_beginning_of_both(
    one: list[int], other: list[int], shared: int
) -> None:
    other = one[:shared] + other
    length = common(one, other)
    assert length >= min(shared, len(one))
    assert one[:length] == other[:length]
    assert one[length : length + 1] != other[length : length + 1] or length == len(one)
