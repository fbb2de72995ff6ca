"""Which runs give way."""

from dataclasses import replace

import pytest

from rayhost.front.preemption import MIN_HELD_NS, MIN_LEFT, MOST_TIMES, Held, victims
from rayhost.front.request import Priority

HIGH, NORMAL, LOW, BATCH = Priority
LONG_AGO = Held(LOW, since_ns=0, left=100, tokens=50, times=0)
NOW = MIN_HELD_NS


def chosen(*started: Held, sequences: int = 2, waiting: Priority = HIGH) -> list[int]:
    return victims(waiting, list(enumerate(started)), sequences, NOW)


def test_the_lowest_priority_gives_way_and_of_those_the_one_that_is_cheapest_to_resume() -> None:
    normal, batch = replace(LONG_AGO, priority=NORMAL), replace(LONG_AGO, priority=BATCH)
    assert chosen(normal, batch, LONG_AGO, sequences=3) == [1]
    assert chosen(LONG_AGO, replace(LONG_AGO, tokens=20)) == [1]


@pytest.mark.parametrize("waiting", [NORMAL, LOW, BATCH])
def test_only_high_priority_takes_anything_away(waiting: Priority) -> None:
    assert chosen(*[replace(LONG_AGO, priority=BATCH)] * 4, waiting=waiting) == []


def test_nothing_is_taken_from_equals() -> None:
    assert chosen(*[replace(LONG_AGO, priority=HIGH)] * 4) == []


def test_nothing_is_taken_while_a_sequence_is_free() -> None:
    assert chosen(LONG_AGO) == []


@pytest.mark.parametrize(
    "spared",
    [
        replace(LONG_AGO, since_ns=1),
        replace(LONG_AGO, left=MIN_LEFT - 1),
        replace(LONG_AGO, times=MOST_TIMES),
    ],
)
def test_runs_that_just_began_or_are_nearly_done_or_gave_way_often_are_spared(spared: Held) -> None:
    assert chosen(spared, spared) == []
    assert chosen(spared, LONG_AGO) == [1]


def test_runs_that_wait_in_the_worker_give_way_too_as_they_lose_nothing() -> None:
    fresh = replace(LONG_AGO, since_ns=NOW)
    assert chosen(LONG_AGO, fresh, fresh, fresh) == [2, 3, 0]
    assert chosen(fresh, fresh, fresh, fresh) == [2, 3]


def test_one_sequence_is_not_taken_twice_for_one_that_waits() -> None:
    high = replace(LONG_AGO, priority=HIGH)
    assert chosen(LONG_AGO, LONG_AGO, high) == []
