"""Which started runs give way to a waiting one. Pure; the lane takes them back and resumes them.

Only the priority `high` takes anything away. What a run that gives way loses is the time to compute
its tokens anew, so one is not taken that just began, that is nearly done, or that gave way often.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from rayhost.front.request import Priority

MIN_HELD_NS = 1_000_000_000
MIN_LEFT = 16  # tokens of its answer: they take less time than to compute the rest again
MOST_TIMES = 3


@dataclass(frozen=True, slots=True)
class Held:
    """A started run, as far as it matters here."""

    priority: Priority
    since_ns: int  # when it was started, the last time
    left: int  # tokens that its answer may still have
    tokens: int  # to compute again, prompt and answer so far
    times: int  # it gave way so far


Run = TypeVar("Run")


def victims(
    waiting: Priority, started: Sequence[tuple[Run, Held]], sequences: int, now_ns: int
) -> list[Run]:
    """Return the runs to take back, so that one of priority `waiting` is computed at once.

    `started` is in the order of starting: those after the first `sequences` hold none yet and lose
    nothing. Of the others at most one is taken, and none while a sequence is free.
    """
    if waiting is not Priority.HIGH:
        return []
    behind = [run for run, held in started[sequences:] if held.priority > waiting]
    if len(started) < sequences or len(started) - len(behind) > sequences:
        return behind  # a sequence is free, or others as high wait for the next one
    candidates = [
        (held, run)
        for run, held in started[:sequences]
        if held.priority > waiting
        and now_ns - held.since_ns >= MIN_HELD_NS
        and held.left >= MIN_LEFT
        and held.times < MOST_TIMES
    ]
    if not candidates:
        return behind
    _, victim = max(candidates, key=lambda one: (one[0].priority, -one[0].tokens))
    return [*behind, victim]
