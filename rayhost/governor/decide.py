"""What to do about memory now: readings, costs and the state before give a plan. Pure, no clock.

Invariant: the plan's sum is within what the kernel can give us, as far as the ladder reaches. Down
at once and as far as that takes; for signs of strain, and up again, a bounded step at a time, after
a time of calm and not more often than the dwell time, so that it does not swing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rayhost.governor.costs import Setting
from rayhost.governor.fit import Box, Wish, lowered, price
from rayhost.governor.ladder import Level, Shed, levels
from rayhost.governor.readings import Readings
from rayhost.profile import Governor, Rung

STALLED = 0.05  # share of time in which every task waits for memory (PSI, full)
FAULTS_S = 100.0  # pages a second that come back from disk: weights are being dropped
GROW_LEVELS = 2  # at once
GROW_MARGIN = 0.04  # of the limit, more free than a level needs, before it is taken again


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is loaded. `idle_s` is how long nobody has asked for it; 0 while it works."""

    wish: Wish
    idle_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Moment:
    """What is known at one tick. `ours` is what front and workers hold, without file pages.

    `major_faults` is the sum of the workers' counters; `now_s` any clock that only goes forward.
    """

    now_s: float
    readings: Readings
    ours: int
    major_faults: int
    models: tuple[Model, ...]
    result_cache_bytes: int = 0  # what the profile allows


@dataclass(frozen=True, slots=True)
class State:
    """What is remembered from tick to tick; start with `State()`."""

    level: int = 0
    changed_s: float = float("-inf")
    calm_since_s: float | None = None  # None: there was pressure at the last tick
    faults: int | None = None
    kills: int | None = None
    at_s: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to hold from now on. `settings` are by model name; what is equal needs no doing.

    `rungs` are what X-Rayhost-Degraded, the log and the metric name, `reason` says why.
    """

    level: int
    rungs: tuple[Rung, ...]
    reason: str
    settings: dict[str, Setting]
    result_cache_bytes: int
    max_tokens: int | None
    shed: Shed | None
    unload: str | None
    needed: int
    allowed: int

    @property
    def fits(self) -> bool:
        """Whether the sum is within what there is: false only at the ladder's end."""
        return self.needed <= self.allowed


def decide(moment: Moment, profile: Governor, box: Box, before: State) -> tuple[Plan, State]:
    """Return the plan for this moment, and the state for the next call.

    Of `box`, what the CPU has copied and the front's size count; the room is `moment`'s.
    """
    ladder = levels(profile.ladder if profile.enabled else ())
    allowed = _allowed(moment, profile)
    models, unload = moment.models, None
    required = _required(models, ladder, box, allowed)
    if required > _before(ladder, "sequences"):
        unload = _longest_idle(models, profile.idle_s)
        if unload is not None:
            models = tuple(model for model in models if model.wish.name != unload)
            required = _required(models, ladder, box, allowed)
    strain = _strain(moment, before)
    pressed = bool(strain) or required > before.level
    since_s = moment.now_s if before.calm_since_s is None else before.calm_since_s
    calm_s = 0.0 if pressed else moment.now_s - since_s
    rested = moment.now_s - before.changed_s >= profile.dwell_s
    level, reason = min(before.level, len(ladder) - 1), "as before"
    if required > level:
        level, reason = required, "memory"
    elif strain and rested:
        level, reason = min(level + 1, len(ladder) - 1), strain
    elif rested and not pressed and calm_s >= profile.calm_s:
        spare = allowed - int(GROW_MARGIN * moment.readings.limit)
        higher = max(_required(models, ladder, box, spare), level - GROW_LEVELS)
        if higher < level:
            level, reason = higher, "room again"
    state = State(
        level=level,
        changed_s=before.changed_s if level == before.level else moment.now_s,
        calm_since_s=None if pressed else since_s,
        faults=moment.major_faults,
        kills=moment.readings.kills,
        at_s=moment.now_s,
    )
    chosen = ladder[level]
    plan = Plan(
        level=level,
        rungs=chosen.rungs,
        reason=reason,
        settings={model.wish.name: lowered(model.wish, chosen.step) for model in models},
        result_cache_bytes=int(moment.result_cache_bytes * chosen.step.snapshots),
        max_tokens=chosen.max_tokens,
        shed=chosen.shed,
        unload=unload,
        needed=_sum(models, chosen, box),
        allowed=allowed,
    )
    return plan, state


def starting(models: Sequence[Model], profile: Governor, box: Box, taken: int) -> State:
    """Return the state of a host whose workers were loaded to take `taken` bytes with the front.

    On a small box that is less than the profile wants: the first level that takes no more.
    """
    return State(level=_required(models, levels(profile.ladder), box, taken))


def _allowed(moment: Moment, profile: Governor) -> int:
    """Return what front and workers may hold together."""
    readings = moment.readings
    return max(0, readings.room + moment.ours - int(profile.headroom * readings.limit))


def _strain(moment: Moment, before: State) -> str:
    """Return a sign that memory is short although the sum fits; empty for none."""
    if before.kills is not None and moment.readings.kills > before.kills:
        return "the kernel killed for memory"
    pressure = moment.readings.memory
    if pressure is not None and pressure.full > STALLED:
        return f"memory stalls {pressure.full:.0%} of the time"
    if before.faults is None or before.at_s is None or moment.now_s <= before.at_s:
        return ""
    # A worker that was replaced takes its counter with it.
    rate = max(0, moment.major_faults - before.faults) / (moment.now_s - before.at_s)
    return f"{rate:.0f} major faults/s" if rate > FAULTS_S else ""


def _required(models: Sequence[Model], ladder: Sequence[Level], box: Box, allowed: int) -> int:
    """Return the first level whose sum fits, else the last."""
    for number, level in enumerate(ladder):
        if _sum(models, level, box) <= allowed:
            return number
    return len(ladder) - 1


def _sum(models: Sequence[Model], level: Level, box: Box) -> int:
    wishes = [model.wish for model in models]
    return box.front + sum(price(wish, lowered(wish, level.step), box).needed for wish in wishes)


def _before(ladder: Sequence[Level], rung: Rung) -> int:
    """Return the level before the first of a rung; where it is in no ladder, 0."""
    return next((at - 1 for at, level in enumerate(ladder) if rung in level.rungs), 0)


def _longest_idle(models: Sequence[Model], idle_s: float) -> str | None:
    """Return a model that may go. The last one stays: there would be nobody to make room for."""
    idle = [model for model in models if model.idle_s >= idle_s]
    if not idle or len(models) < 2:
        return None
    return max(idle, key=lambda model: model.idle_s).wish.name
