"""When a worker is given up: what its status page and its process show, tick by tick."""

import os
from collections.abc import Callable, Iterator

import pytest

from rayhost.supervisor.pulse import (
    LOADING_NS,
    SILENT_LOADING_NS,
    SILENT_NS,
    STEP_NS,
    TICK_NS,
    Pulse,
    Signs,
    signs_of,
)

BATCH = 512


def still() -> Signs:
    return (1, 2)


def busy() -> Callable[[], Signs]:
    ticks: Iterator[int] = iter(range(1_000_000))
    return lambda: (next(ticks),)


class Watched:
    """A pulse and the clock that its samples come by."""

    def __init__(self, *, batch: int = BATCH, ready: bool = True) -> None:
        self.now_ns = 1_000_000_000
        self.beat_ns = 0
        self.pulse = Pulse(self.now_ns, batch)
        if ready:
            self.beat(busy())

    def beat(self, signs: Callable[[], Signs]) -> str | None:
        self.beat_ns = self.now_ns
        return self.tick(signs)

    def tick(self, signs: Callable[[], Signs], after_ns: int = TICK_NS) -> str | None:
        self.now_ns += after_ns
        return self.pulse.look(self.now_ns, self.beat_ns, signs)

    def until_given_up(self, signs: Callable[[], Signs]) -> tuple[int, str]:
        """Return the nanoseconds on schedule until it was given up, and why."""
        began_ns = self.now_ns
        while True:
            if reason := self.tick(signs):
                return self.now_ns - began_ns, reason
            assert self.now_ns - began_ns < 10 * LOADING_NS


def test_a_worker_that_shows_nothing_at_all_is_found_within_seconds() -> None:
    took_ns, reason = Watched().until_given_up(still)
    assert SILENT_NS <= took_ns <= SILENT_NS + 2 * TICK_NS
    assert "no sign of life for 4 s" in reason


def test_a_worker_that_computes_gets_the_time_of_its_largest_batch_on_the_slowest_box() -> None:
    took_ns, reason = Watched(batch=128).until_given_up(busy())
    assert STEP_NS <= took_ns <= STEP_NS + 2 * TICK_NS
    assert "did not end one step within 30 s" in reason
    assert Watched(batch=8192).until_given_up(busy())[0] > 10 * STEP_NS


def test_the_slowest_step_that_it_ended_makes_more_room_for_the_next() -> None:
    watched, signs = Watched(), busy()
    for _ in range(40):  # a step of 20 s
        assert watched.tick(signs) is None
    assert watched.beat(signs) is None
    took_ns, _ = watched.until_given_up(signs)
    assert took_ns == pytest.approx(80e9, abs=2 * TICK_NS)


def test_a_beat_starts_everything_anew() -> None:
    watched = Watched()
    for _ in range(50):
        for _ in range(6):
            assert watched.tick(still) is None
        assert watched.beat(still) is None


def test_any_sign_of_the_process_shows_that_it_is_not_stopped() -> None:
    watched, n = Watched(), STEP_NS // TICK_NS - 2  # just within the time that a step has
    ticks = iter(range(n))
    for _ in range(n):
        assert watched.tick(lambda: (next(ticks) // 6,)) is None


def test_samples_that_come_late_say_nothing_about_the_worker() -> None:
    watched = Watched()
    for _ in range(100):  # this process was stalled for 10 s again and again
        assert watched.tick(still, 10_000_000_000) is None
    took_ns, _ = watched.until_given_up(still)
    assert took_ns >= SILENT_NS

    watched = Watched()
    assert watched.tick(still, 3600_000_000_000) is None
    assert watched.beat(still) is None
    took_ns, _ = watched.until_given_up(busy())
    assert took_ns < 2 * STEP_NS, "the pause was taken for a step"


def test_loading_has_bounds_of_its_own() -> None:
    took_ns, reason = Watched(ready=False).until_given_up(still)
    assert SILENT_LOADING_NS <= took_ns <= SILENT_LOADING_NS + 2 * TICK_NS
    assert "no sign of life" in reason
    took_ns, reason = Watched(ready=False).until_given_up(busy())
    assert LOADING_NS <= took_ns <= LOADING_NS + 2 * TICK_NS
    assert "did not end loading" in reason


def test_the_process_is_only_looked_at_while_the_beat_stands_still() -> None:
    def never() -> Signs:
        raise AssertionError("asked")

    watched = Watched()
    for _ in range(10):
        assert watched.beat(never) is None


def test_the_signs_of_a_process_change_as_it_computes() -> None:
    before = signs_of(os.getpid())
    while signs_of(os.getpid()) == before:  # reading them is work, too
        pass
