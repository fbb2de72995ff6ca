"""What to do about memory now: readings, costs and the state before give a plan. Pure, no clock.

Invariant: the plan's sum is within what the kernel can give us, as far as the ladder reaches. Down
at once and as far as that takes; for signs of strain, and up again, a bounded step at a time, after
a time of calm and not more often than the dwell time. A growth that is undone soon makes the next
one wait twice as long, so that it does not swing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rayhost.governor.costs import Setting
from rayhost.governor.fit import Box
from rayhost.governor.ladder import Shed, levels
from rayhost.governor.readings import Readings
from rayhost.governor.ways import Model, Ways
from rayhost.profile import LADDER, Governor, Rung

STALLED = 0.05  # share of time in which every task waits for memory (PSI, full)
FAULTS_S = 100.0  # pages a second that come back from disk: weights are being dropped
FAULTS_OVER_S = 1.0  # a burst between two ticks is no rate
TIGHT = 0.15  # of the limit: with more than that to spare, strain is not for want of memory
GROW_LEVELS = 2  # at once
GROW_MARGIN = 0.04  # of the limit, more free than a level needs, before it is taken again
MOST_UNDONE = 6  # doublings of the time of calm

_MORE_THAN_CACHES: tuple[Rung, ...] = tuple(rung for rung in LADDER if rung != "caches")
# What frees nothing, or what is worse than being slow: never for strain while the sum fits.
_LAST_RESORTS: tuple[Rung, ...] = ("max_tokens", "fallback", "shed")


@dataclass(frozen=True, slots=True)
class Moment:
    """What is known at one tick. `front` is what the front holds, without file pages.

    `major_faults` is the sum of the workers' counters; `now_s` any clock that only goes forward.
    """

    now_s: float
    readings: Readings
    front: int
    major_faults: int
    models: tuple[Model, ...]
    result_cache_bytes: int = 0  # what the profile allows; the box's front has room for it

    @property
    def ours(self) -> int:
        """What front and workers hold together."""
        return self.front + sum(model.held for model in self.models)


@dataclass(frozen=True, slots=True)
class State:
    """What is remembered from tick to tick; start with the `base` that `fit` found.

    `base` is a place in STEPS: what level 0 is, as wide as this box was found to be. `undone` is
    how often in a row a growth was followed by pressure.
    """

    level: int = 0
    base: int = 0
    changed_s: float = float("-inf")
    calm_since_s: float | None = None  # None: there was pressure at the last tick
    grew: bool = False  # by the last change
    undone: int = 0
    faults: int | None = None
    kills: int | None = None
    at_s: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to hold from now on. `settings` are by model name; what is equal needs no doing.

    `rungs` are what X-Rayhost-Degraded, the log and the metric name, `reason` says why. `instead`
    names the model that answers for each that does without a process. `contexts` are those without
    any degradation.
    """

    level: int
    base: int
    rungs: tuple[Rung, ...]
    contexts: dict[str, int]
    reason: str
    settings: dict[str, Setting]
    result_cache_bytes: int
    max_tokens: int | None
    shed: Shed | None
    unload: tuple[str, ...]
    instead: dict[str, str]
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
    allowed = _allowed(moment, profile)
    ways, unload = _ways(moment, profile, box, before.base)
    before = replace(before, level=min(before.level, len(ways.ladder) - 1))
    required = ways.required(allowed)
    strain = _strain(moment, before, allowed - ways.needed(before.level))
    pressed = bool(strain) or required > before.level
    state = _moved(moment, profile, before, pressed)
    calm_s = 0.0 if state.calm_since_s is None else moment.now_s - state.calm_since_s
    rested = moment.now_s - before.changed_s >= profile.dwell_s
    level, base, reason = before.level, before.base, "as before"
    if required > level:
        level, reason = required, "memory"
    elif strain and rested:
        less = ways.less(level)
        level, reason = less if less <= ways.before(*_LAST_RESORTS) else level, strain
    elif rested and not pressed and calm_s >= profile.calm_s * (1 << before.undone):
        spare = allowed - int(GROW_MARGIN * moment.readings.limit)
        level, base = _grown(ways, before, spare, profile)
        if (level, base) != (before.level, before.base):
            reason = "room again"
    state = _changed(state, before, level, base, moment.now_s)
    ways = replace(ways, base=base)
    return _plan(ways, level, reason, unload, allowed), state


def bears(moment: Moment, profile: Governor, box: Box, base: int) -> bool:
    """Tell whether all that a moment's models want fits without anything harsh."""
    ways, _ = _ways(moment, profile, box, base)
    return ways.bears(_allowed(moment, profile))


def _ways(moment: Moment, profile: Governor, box: Box, base: int) -> tuple[Ways, tuple[str, ...]]:
    """Return what the models would take at each level, and which of them is to be unloaded."""
    ladder = levels(profile.ladder if profile.enabled else ())
    ways = Ways(moment.models, ladder, box, moment.result_cache_bytes, base, moment.front)
    if ways.required(_allowed(moment, profile)) <= ways.before(*_MORE_THAN_CACHES):
        return ways, ()
    unload = _longest_idle(ways.models, profile.idle_s)
    staying = tuple(model for model in ways.models if model.wish.name not in unload)
    return replace(ways, models=staying), unload


def _plan(ways: Ways, level: int, reason: str, unload: tuple[str, ...], allowed: int) -> Plan:
    chosen, settings = ways.ladder[level], ways.settings(level)
    instead = {
        model.wish.name: model.wish.fallback
        for model in ways.models
        if chosen.fallback and model.wish.fallback is not None
    }
    return Plan(
        level=level,
        base=ways.base,
        rungs=chosen.rungs,
        contexts={name: one.context for name, one in ways.settings(0).items()},
        reason=reason,
        settings=settings,
        result_cache_bytes=ways.kept(level),
        max_tokens=chosen.max_tokens,
        shed=chosen.shed,
        unload=unload + tuple(name for name in instead if name not in settings),
        instead=instead,
        needed=ways.needed(level),
        allowed=allowed,
    )


def _grown(ways: Ways, before: State, spare: int, profile: Governor) -> tuple[int, int]:
    """Return the level and the base that fit into less than there is: up a bounded step."""
    if before.level:
        return min(before.level, max(ways.required(spare), before.level - GROW_LEVELS)), before.base
    if not profile.enabled:
        return 0, before.base
    steps = range(max(0, before.base - GROW_LEVELS), before.base)
    wider = (base for base in steps if replace(ways, base=base).needed(0) <= spare)
    return 0, next(wider, before.base)


def _moved(moment: Moment, profile: Governor, before: State, pressed: bool) -> State:
    """Return the state with what this moment shows."""
    since_s = moment.now_s if before.calm_since_s is None else before.calm_since_s
    soon = _soon(moment.now_s, before, profile)
    undone = before.undone
    if before.grew and pressed and soon:
        undone = min(undone + 1, MOST_UNDONE)
    elif before.grew and not soon:  # it has lasted
        undone = 0
    counted = before.at_s is not None and moment.now_s - before.at_s < FAULTS_OVER_S
    return replace(
        before,
        calm_since_s=None if pressed else since_s,
        faults=before.faults if counted else moment.major_faults,
        at_s=before.at_s if counted else moment.now_s,
        kills=moment.readings.kills,
        undone=undone,
        grew=before.grew and soon and not pressed,
    )


def _soon(now_s: float, before: State, profile: Governor) -> bool:
    return now_s - before.changed_s <= profile.dwell_s + profile.calm_s * (1 << before.undone)


def _changed(state: State, before: State, level: int, base: int, now_s: float) -> State:
    """Return the state after a change of level or base, if there is one."""
    if (level, base) == (before.level, before.base):
        return state
    grew = level < before.level or base < before.base
    return replace(state, level=level, base=base, changed_s=now_s, grew=grew)


def _allowed(moment: Moment, profile: Governor) -> int:
    """Return what front and workers may hold together."""
    readings = moment.readings
    return max(0, readings.room + moment.ours - int(profile.headroom * readings.limit))


def _strain(moment: Moment, before: State, spare: int) -> str:
    """Return a sign that memory is short although the sum fits; empty for none.

    With much to `spare`, tasks that wait and pages that come from disk have other causes.
    """
    if before.kills is not None and moment.readings.kills > before.kills:
        return "the kernel killed for memory"
    if spare > TIGHT * moment.readings.limit:
        return ""
    pressure = moment.readings.memory
    if pressure is not None and pressure.full > STALLED:
        return f"memory stalls {pressure.full:.0%} of the time"
    over_s = 0.0 if before.at_s is None else moment.now_s - before.at_s
    if before.faults is None or over_s < FAULTS_OVER_S:
        return ""
    # A worker that was replaced takes its counter with it.
    rate = max(0, moment.major_faults - before.faults) / over_s
    return f"{rate:.0f} major faults/s" if rate > FAULTS_S else ""


def _longest_idle(models: Sequence[Model], idle_s: float) -> tuple[str, ...]:
    """Return a model that may go. The last one stays: there would be nobody to make room for."""
    loaded = [model for model in models if not model.resting]
    idle = [model for model in loaded if model.idle_s >= idle_s]
    if not idle or len(loaded) < 2:
        return ()
    return (max(idle, key=lambda model: model.idle_s).wish.name,)
