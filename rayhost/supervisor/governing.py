"""The governor at work: reads the box, asks `governor.decide`, and makes the plan true.

Invariant: no request that was accepted fails by it. A worker takes other sizes live, an idle one
ends and is started again when somebody asks, and where sizes cannot be had those from before stay.
One for each host, in the front's event loop; `cli.service` starts it.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import msgspec
import structlog

from rayhost.errors import Overloaded, RayhostError
from rayhost.front.relief import RETRY_S, Relief
from rayhost.front.request import Priority
from rayhost.front.result_cache import ResultCache
from rayhost.front.state import MemoryState
from rayhost.governor.costs import MIB, Setting
from rayhost.governor.decide import Moment, Plan, State, bears, decide
from rayhost.governor.fit import price
from rayhost.governor.readings import Kernel, Readings
from rayhost.governor.ways import Model
from rayhost.ipc.messages import Load
from rayhost.profile import Governor
from rayhost.supervisor.governed import Budget, Part, setting_of, sized, wish_of
from rayhost.supervisor.holdings import Held, Holdings
from rayhost.supervisor.waking import Waking, is_fair

TICK_S = 1.0
SOON_S = 0.2  # between ticks while little is free: who takes memory takes it fast
LEAST_S = 0.05  # the kernel may raise its alarm a thousand times a second
TIGHT = 0.25  # of the limit

_log = structlog.get_logger("rayhost.governor")


@dataclass(slots=True)
class _Seen:
    """What the last tick found and did."""

    moment: Moment
    plan: Plan


class Governing:
    """`run` ticks until it is cancelled; `tick` does what one tick does."""

    def __init__(
        self,
        budget: Budget,
        *,
        kernel: Kernel,
        parts: Callable[[], Sequence[Part]],
        results: ResultCache,
        relieve: Callable[[Relief], None],
        now_s: Callable[[], float],
    ) -> None:
        """`relieve` is told what requests are spared from now on."""
        self._budget = budget
        self._kernel = kernel
        self._parts = parts
        self._results = results
        self.cache_bytes = results.limit_bytes  # what the profile allows
        self._relieve = relieve
        self._now_s = now_s
        self._state = State(base=budget.base)
        self._seen: _Seen | None = None
        self._waking = Waking()
        self._unhad: dict[str, tuple[Setting, float]] = {}  # not to be tried again before then
        self._holdings = Holdings(kernel)
        self._wanted = asyncio.Event()

    @property
    def budget(self) -> Budget:
        """What is governed."""
        return self._budget

    @budget.setter
    def budget(self, budget: Budget) -> None:
        other_ladder = budget.profile.ladder != self._budget.profile.ladder
        self._budget = budget
        # Nobody shrinks for a reload: where there is less than was thought, the next tick sees it.
        self._state = replace(
            self._state,
            base=min(self._state.base, budget.base),
            level=0 if other_ladder else self._state.level,
        )
        for part in self._parts():
            part.lane.full_context = 0

    async def run(self) -> None:
        """Tick once a second, more often while memory is short, and at once after `hurry`."""
        try:
            while True:
                try:
                    await self.tick()
                except Exception:  # noqa: BLE001 - a host that is not governed beats none
                    _log.exception("tick failed")
                await asyncio.sleep(LEAST_S)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause_s() - LEAST_S):
                        await self._wanted.wait()
                self._wanted.clear()
        finally:
            self._holdings.close()

    def hurry(self) -> None:
        """Have the next tick now: the kernel is short of memory, or somebody wants a model."""
        self._wanted.set()

    async def tick(self) -> None:
        """Read, decide, and do it."""
        parts = self._governed()
        for part in parts:
            part.lane.on_wanted = self.hurry
            part.lane.on_constrained = partial(self._allow_constrained, part.lane.name)
        readings = self._kernel.read()
        held = self._holdings.measured(parts, self.budget)
        loaded = [part for part in parts if part.lane.state not in ("unloaded", "stopped")]
        wanted = self._waking.wanted(parts)
        if not loaded and not wanted:
            return
        before, budget = self._state, self.budget
        if not budget.profile.enabled:
            await self._only_look(readings, held, loaded, wanted)
            return
        # Of those that another answers for, it is to be known when there is room for both again.
        resting = [
            part
            for part in parts
            if part.lane.state == "unloaded" and budget.demands[part.lane.name].wish.fallback
        ]
        others = [part for part in resting if part not in wanted]
        moment = self._moment(readings, held, [*loaded, *wanted], others)
        plan, state = decide(moment, self._profile, budget.box, before)
        if wanted and not is_fair(plan, before.level, budget, wanted, loaded):
            self._waking.refuse(wanted)
            if not loaded:
                return
            wanted = []
            moment = self._moment(readings, held, loaded, resting)
            plan, state = decide(moment, self._profile, budget.box, before)
        self._tell(plan, before)
        self._state, self._seen = state, _Seen(moment, plan)
        if not await self._apply(plan, readings, loaded, wanted):
            # The sizes before it hold: no other try before the usual calm.
            self._state = replace(
                state, level=max(state.level, before.level), base=before.base,
                changed_s=self._now_s(), calm_since_s=None,
            )  # fmt: skip

    async def _only_look(
        self, readings: Readings, held: Held, loaded: Sequence[Part], wanted: Sequence[Part]
    ) -> None:
        """Tell what there is, and change nothing but what was done while the governor was on."""
        moment = self._moment(readings, held, [*loaded, *wanted])
        plan, _ = decide(moment, self._profile, self.budget.box, self._state)
        self._seen = _Seen(moment, plan)
        if self._state.level or wanted:
            self._state = State(base=self._state.base)
            await self._apply(plan, readings, loaded, wanted)

    def sized(self, name: str, load: Load) -> Load:
        """Return what a model is to be loaded with in place of `load`, as memory is now."""
        plan = self._seen.plan if self._seen else None
        as_planned = plan is None or (plan.level == 0 and plan.base == self.budget.base)
        setting = None if plan is None or as_planned else plan.settings.get(name)
        return load if setting is None else sized(load, setting, load.threads)

    def state(self) -> MemoryState:
        """Return what is known of memory, and what is done about it."""
        seen = self._seen
        if seen is None:
            return MemoryState()
        plan = seen.plan
        return MemoryState(
            limit_bytes=seen.moment.readings.limit,
            used_bytes=seen.moment.readings.used,
            ours_bytes=seen.moment.ours,
            allowed_bytes=plan.allowed,
            needed_bytes=plan.needed,
            cores=seen.moment.readings.cores,
            level=plan.level,
            rungs=plan.rungs,
            reason=plan.reason,
        )

    # Reading.

    def _governed(self) -> list[Part]:
        return [
            part
            for part in self._parts()
            if part.lane.name in self.budget.demands and part.lane.state != "failed"
        ]

    @property
    def _profile(self) -> Governor:
        """The profile's section, without a rung that has no model to act on."""
        profile = self.budget.profile
        if any(demand.wish.fallback for demand in self.budget.demands.values()):
            return profile
        ladder = tuple(rung for rung in profile.ladder if rung != "fallback")
        return msgspec.structs.replace(profile, ladder=ladder)

    def _moment(
        self,
        readings: Readings,
        held: Held,
        parts: Sequence[Part],
        resting: Sequence[Part] = (),
    ) -> Moment:
        models = tuple(
            Model(
                wish_of(part, self.budget),
                part.lane.idle_ns / 1e9,
                resting=part in resting,
                held=held.workers.get(part.lane.name, 0),
            )
            for part in [*parts, *resting]
        )
        faults = held.major_faults
        return Moment(self._now_s(), readings, held.front, faults, models, self.cache_bytes)

    def _allow_constrained(self, name: str) -> None:
        """Raise Overloaded where a model has no room for its first structured output.

        It would have to be made at the cost of contexts, or of everybody's requests, and be kept as
        long as the worker lives.
        """
        budget, seen = self.budget, self._seen
        if seen is None or not budget.profile.enabled:
            return
        models = tuple(
            replace(model, wish=replace(model.wish, constrained=True))
            if model.wish.name == name
            else model
            for model in seen.moment.models
        )
        moment = replace(seen.moment, models=models)
        if not bears(moment, self._profile, budget.box, self._state.base):
            raise Overloaded(
                f"memory is too short for structured output or tools of model {name!r} now",
                code="no_memory",
                retry_after=RETRY_S,
            )

    # Doing.

    async def _apply(
        self, plan: Plan, readings: Readings, loaded: Sequence[Part], wanted: Sequence[Part]
    ) -> bool:
        """Make a plan true; return False where sizes could not be had."""
        shed = None if plan.shed is None else Priority[plan.shed.upper()]
        self._relieve(Relief(plan.rungs, plan.max_tokens, shed, plan.instead))
        self._results.limit(plan.result_cache_bytes)
        resizing = [
            part
            for part in loaded
            if part.lane.name in plan.settings and part.lane.state in ("ready", "restarting")
        ]
        growing = [part for part in resizing if self._grows(part, plan)]
        shrunk, _ = await asyncio.gather(
            asyncio.gather(
                *(self._resize(one, plan, readings) for one in resizing if one not in growing)
            ),
            asyncio.gather(
                *(one.keeper.unload() for one in loaded if one.lane.name in plan.unload)
            ),
        )
        # What that has freed is taken only now.
        grown = await asyncio.gather(*(self._resize(one, plan, readings) for one in growing))
        done = all([*shrunk, *grown])
        if not done:
            self._waking.refuse(wanted)
            return False
        for part in wanted:
            part.keeper.wake(self._change(part, plan.settings[part.lane.name], readings))
        return True

    def _grows(self, part: Part, plan: Plan) -> bool:
        load, box, wish = part.keeper.load, self.budget.box, wish_of(part, self.budget)
        if isinstance(load, RayhostError):
            return False
        asked, now = plan.settings[part.lane.name], setting_of(load)
        return price(wish, asked, box).needed > price(wish, now, box).needed

    async def _resize(self, part: Part, plan: Plan, readings: Readings) -> bool:
        name, setting = part.lane.name, plan.settings[part.lane.name]
        load, full = part.keeper.load, plan.contexts[name]
        # A prompt that has no room now may have it another time.
        short = setting.context < full or (isinstance(load, Load) and load.context < full)
        part.lane.full_context = full if short else 0
        unhad, until_s = self._unhad.get(name, (None, 0.0))
        if setting == unhad and self._now_s() < until_s:
            return False  # as told when it was tried
        try:
            await part.keeper.resize(self._change(part, setting, readings))
        except RayhostError as error:
            _log.warning("not resized", model=name, reason=str(error))
            self._unhad[name] = setting, self._now_s() + self.budget.profile.calm_s
            return False
        self._unhad.pop(name, None)
        return True

    def _change(self, part: Part, setting: Setting, readings: Readings) -> Callable[[Load], Load]:
        most = self.budget.demands[part.lane.name].threads

        def change(load: Load) -> Load:
            threads = load.threads if most is None else max(1, min(most, int(readings.cores)))
            if setting.context < min(load.context, part.lane.least_context):  # of what came since
                return load
            return sized(load, setting, threads)

        return change

    def _tell(self, plan: Plan, before: State) -> None:
        last = self._seen.plan if self._seen else None
        level, base = (before.level, before.base) if last is None else (last.level, last.base)
        if (plan.level, plan.base) == (level, base):
            return
        worse = plan.level > level
        better = "less degraded" if plan.rungs else "all as planned again"
        (_log.warning if worse else _log.info)(
            "degraded" if worse else "wider" if plan.base < base else better,
            level=plan.level,
            step=plan.base,
            rungs=plan.rungs,
            reason=plan.reason,
            needed_mib=plan.needed // MIB,
            allowed_mib=plan.allowed // MIB,
        )

    def _pause_s(self) -> float:
        seen = self._seen
        if seen is None:
            return TICK_S
        readings = seen.moment.readings
        tight = readings.room < TIGHT * readings.limit
        return SOON_S if tight or self._waking.refuses else TICK_S
