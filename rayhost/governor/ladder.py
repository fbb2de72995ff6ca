"""The ladder of degradation as a row of levels, each a little less than the one before. Pure.

Level 0 is what the box was found to hold (`fit`). A rung of the profile's ladder may be several
levels, and a level keeps what those above it gave up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rayhost.governor.fit import STEPS, USUAL, Step
from rayhost.profile import Rung

Shed = Literal["batch", "low", "normal"]


@dataclass(frozen=True, slots=True)
class Level:
    """What holds at a level. `rungs` are the names of those in force, the latest last.

    `max_tokens` caps answers; `fallback`: models that have another to answer for them do without a
    process; `shed` is the highest priority whose requests are refused.
    """

    rungs: tuple[Rung, ...] = ()
    step: Step = STEPS[USUAL]
    max_tokens: int | None = None
    fallback: bool = False
    shed: Shed | None = None


_LEVELS: dict[Rung, tuple[dict[str, Any], ...]] = {
    "caches": ({"snapshots": 0.5}, {"snapshots": 0.25}),
    "sequences": tuple({"concurrency": share} for share in (0.75, 0.5, 0.375, 0.25)),
    "batch": ({"snapshots": 0.0}, {"batch": 0.5}, {"batch": 0.25}),
    "max_tokens": ({"max_tokens": 512}, {"max_tokens": 256}),
    "precision": ({"kv_type": "q8_0"}, {"concurrency": 0.125}),
    "context": ({"context": 0.5}, {"context": 0.25}, {"context": 0.125, "concurrency": 0.0625}),
    "fallback": ({"fallback": True},),
    "shed": ({"shed": "batch"}, {"shed": "low"}, {"shed": "normal"}),
}
_OF_A_STEP = {"snapshots", "concurrency", "batch", "kv_type", "context"}


def levels(ladder: Sequence[Rung]) -> tuple[Level, ...]:
    """Return level 0 and those of each rung in order; a rung that comes twice counts once."""
    found = [Level()]
    for rung in dict.fromkeys(ladder):
        for change in _LEVELS[rung]:
            found.append(_lower(found[-1], rung, change))
    return tuple(found)


def _lower(level: Level, rung: Rung, change: dict[str, Any]) -> Level:
    rungs = level.rungs if rung in level.rungs else (*level.rungs, rung)
    own = {key: value for key, value in change.items() if key not in _OF_A_STEP}
    sizes = {key: _least(level.step, key, change[key]) for key in change.keys() & _OF_A_STEP}
    return replace(level, rungs=rungs, step=replace(level.step, **sizes), **own)


def _least(step: Step, key: str, value: Any) -> Any:
    """Keep the smaller share: rungs may come in any order, and none may give back."""
    return value if key == "kv_type" else min(value, getattr(step, key))
