"""Which slot a request gets, and which beginning that exists already."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhost.ipc.sampling import Sampling
from rayhost.worker.output import TextStream
from rayhost.worker.prefixes import (
    MIN_SHARED,
    Place,
    Prefixes,
    Promise,
    Source,
    closer,
    common,
    runs,
)
from rayhost.worker.sequence import Sequence
from rayhost.worker.snapshots import Snapshots

A = [1] * MIN_SHARED  # beginnings worth reusing
B = [2] * MIN_SHARED
COLD = Source("cold")


def prefixes(*held: list[int], trims: bool = True) -> Prefixes:
    """Return idle slots that hold these tokens, the longest unused first."""
    found = Prefixes(len(held), Snapshots(0), trims=trims)
    for slot, _ in enumerate(held):
        assert found.place([0], ()) == Place(slot, COLD, [])
    for slot, tokens in enumerate(held):
        found.give(slot, tokens)
    return found


def running(tokens: list[int], computed: int, slot: int = 9) -> Sequence:
    return Sequence(1, tokens, len(tokens), 1, Sampling(), TextStream(), slot, computed)


@pytest.mark.parametrize(
    ("held", "tokens", "place"),
    [
        ([[], []], [*A, 3], Place(0, COLD, [])),
        ([[], A], [*A, 3], Place(1, Source("idle", 16, 1), [])),
        ([A, [*A, 4]], [*A, 4, 5], Place(1, Source("idle", 17, 1), [])),  # the most of it
        ([[*A, 8, 8], [*A, 9]], [*A, 4], Place(1, Source("idle", 16, 1), [])),
        ([[], A], A, Place(0, COLD, [])),  # 15 without the last: not worth it
        ([[], [*A, *B, *B]], [*A, 3], Place(0, Source("idle", 16, 1), [])),  # a copy
        ([[1, 1, 5], [7]], [*A, 3], Place(0, Source("idle", 2, 0), [])),  # by chance
        ([B, [7]], [*A, 3], Place(0, COLD, B)),  # what the slot loses
        ([[*A, *B], [7]], [*A, 3], Place(0, Source("idle", 16, 0), [*A, *B])),
        ([[5], [6]], [1], Place(0, COLD, [])),
    ],
)
def test_a_request_gets_the_slot_and_the_beginning_that_suit_it(
    held: list[list[int]], tokens: list[int], place: Place
) -> None:
    assert prefixes(*held).place(tokens, ()) == place


def test_a_beginning_is_copied_from_a_running_sequence_that_has_it() -> None:
    busy = running([*A, *B, 7], computed=40)
    place = prefixes([]).place([*A, *B, 5], [busy])
    assert place == Place(0, Source("busy", 32, 9), [])


def test_a_request_waits_for_one_that_is_computing_its_beginning() -> None:
    busy = running([*A, *B, 7], computed=3)
    slots = prefixes([])
    assert slots.place([*A, *B, 5], [busy]) == Promise(busy, 32)
    assert slots.idle


def test_it_does_not_wait_for_little_more_than_there_is() -> None:
    busy = running([*A, *B, 7], computed=20)
    place = prefixes([]).place([*A, *B, 5], [busy])
    assert place == Place(0, Source("busy", 20, 9), [])


def test_a_slot_that_was_copied_from_is_the_last_to_be_replaced() -> None:
    slots = prefixes([5], [*A, *B, *B], [8])
    assert slots.place([*A, 3], ()) == Place(0, Source("idle", 16, 1), [])
    assert slots.place([9], ()) == Place(2, COLD, [])
    assert slots.place([9], ()) == Place(1, COLD, [*A, *B, *B])


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
    place = prefixes(held, trims=False).place(tokens, ())
    assert isinstance(place, Place)
    assert place.source == source


def test_of_a_running_sequence_that_cannot_be_trimmed_only_its_very_end_is_used() -> None:
    ahead, there = running([*A, *B, 7], computed=20), running([*A, *B, 7], computed=16)
    slots = prefixes([], [], trims=False)
    assert slots.place([*A, 5], [ahead]) == Place(0, COLD, [])
    assert slots.place([*A, 5], [there]) == Place(1, Source("busy", 16, 9), [])


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


@pytest.mark.parametrize(
    ("beside", "slot"),
    [
        ({3}, 2),  # a neighbour, the longest unused of the two
        ({3, 5}, 4),  # the gap
        (set(), 1),  # nobody is there: where its beginning is
    ],
)
def test_a_request_goes_beside_those_that_are_computed_with_it(beside: set[int], slot: int) -> None:
    slots = Prefixes(6, Snapshots(0), trims=True)
    for taken in range(6):
        assert slots.place([0], ()) == Place(taken, COLD, [])
    for idle in {0, 1, 2, 4} - beside:
        slots.give(idle, [*A, 1] if idle == 1 else [])
    place = slots.place([*A, 1, 2], (), beside)
    assert place == Place(slot, Source("idle", 17, 1), [])


@pytest.mark.parametrize(
    ("used", "idle", "moves"),
    [
        ({0, 1, 2}, {3}, []),
        ({0, 2}, {1}, [(2, 1)]),
        ({0, 2, 4, 6}, {1, 3, 5, 7}, [(4, 1), (6, 3)]),
        ({0, 2}, set(), []),  # who holds the slots between does not take part: no way
        ({0, 3}, {1}, [(3, 1)]),
        ({0, 1, 5, 6, 7}, {2, 3, 4}, [(0, 3), (1, 4)]),
    ],
)
def test_sequences_move_as_little_as_makes_them_neighbours(
    used: set[int], idle: set[int], moves: list[tuple[int, int]]
) -> None:
    assert closer(sorted(used), idle, 8) == moves


@given(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)))
def test_after_the_moves_there_is_one_run_or_there_were_no_moves(
    used: set[int], idle: set[int]
) -> None:
    idle -= used
    moves = closer(used, idle, 10)
    after = used - {slot for slot, _ in moves} | {to for _, to in moves}
    assert {to for _, to in moves} <= idle
    assert len(after) == len(used)
    assert not moves or runs(after) == 1
