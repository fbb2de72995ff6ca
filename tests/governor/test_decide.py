"""Decisions: down at once and never above the limit, up slowly, and back to the top."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayhost.governor.costs import FRONT, MIB, costs
from rayhost.governor.decide import (
    FAULTS_S,
    GROW_LEVELS,
    MOST_UNDONE,
    Moment,
    Plan,
    State,
    bears,
    decide,
)
from rayhost.governor.fit import USUAL, Box, DoesNotFit, Wish, fit, kept_free, lowered
from rayhost.governor.kernels import repacked
from rayhost.governor.ladder import levels
from rayhost.governor.readings import Pressure, Readings
from rayhost.governor.ways import Model
from rayhost.models.catalog_shapes import BY_NAME
from rayhost.profile import LADDER, Governor

BOX = Box(0, repacked(["AVX2"]), FRONT + 16 * MIB)
PROFILE = Governor()
LIMIT = 1024
SMOLLM = Model(Wish("smollm2-135m", BY_NAME["smollm2-135m"], snapshot_bytes=128 * MIB))
GEMMA = Model(Wish("gemma3-270m", BY_NAME["gemma3-270m"], snapshot_bytes=128 * MIB))
LAST = len(levels(LADDER)) - 1


def moment(
    now_s: float = 100.0,
    others_mib: int = 0,
    *models: Model,
    full: float = 0.0,
    faults: int = 0,
    limit_mib: int = LIMIT,
    ours_mib: int = 400,
) -> Moment:
    """Make a moment at which somebody else holds `others_mib` of the limit."""
    limit = limit_mib * MIB
    used = min(limit, (ours_mib + others_mib) * MIB)
    readings = Readings(
        limit=limit,
        used=used,
        cached=0,
        available=limit,
        cgroup=True,
        memory=Pressure(full, full),
        cores=1.0,
    )
    ours = used - min(used, others_mib * MIB)
    front = min(ours, 37 * MIB)
    first, *others = models or (SMOLLM,)
    return Moment(
        now_s, readings, front, faults, (replace(first, held=ours - front), *others), 16 * MIB
    )


def at(level: int, **known: Any) -> State:
    """Return a state that has been at a level for long, in calm."""
    return replace(State(level=level, base=USUAL, changed_s=0.0, calm_since_s=0.0), **known)


START = State(base=USUAL)


def after(given: Moment, before: State = START, profile: Governor = PROFILE) -> Plan:
    return decide(given, profile, BOX, before)[0]


def test_with_room_everything_is_as_the_profile_wants() -> None:
    plan = after(moment())
    assert (plan.level, plan.rungs, plan.unload, plan.shed) == (0, (), (), None)
    assert plan.settings["smollm2-135m"].concurrency == 8
    assert plan.result_cache_bytes == 16 * MIB


@pytest.mark.parametrize(
    ("others_mib", "rungs", "concurrency", "kv_type"),
    [
        (200, ("caches",), 8, "f16"),
        (250, ("caches", "sequences"), 6, "f16"),
        (560, ("caches", "sequences", "batch"), 2, "f16"),
        (640, ("caches", "sequences", "batch", "max_tokens", "precision"), 2, "q8_0"),
    ],
)
def test_what_another_takes_is_given_up_at_once_and_in_order(
    others_mib: int, rungs: tuple[str, ...], concurrency: int, kv_type: str
) -> None:
    plan = after(moment(100.0, others_mib))
    assert (plan.rungs, plan.reason) == (rungs, "memory")
    assert plan.settings["smollm2-135m"].concurrency == concurrency
    assert plan.settings["smollm2-135m"].kv_type == kv_type
    assert plan.fits


def test_where_nothing_fits_the_ladder_ends_with_refusing() -> None:
    plan = after(moment(100.0, 900))
    assert (plan.level, plan.shed) == (LAST, "normal")
    assert plan.max_tokens == 256
    assert not plan.fits


TIGHT = 200  # MiB that others hold where level 3 fits, with little to spare


def test_stalls_take_one_step_although_the_sum_fits() -> None:
    plan = after(moment(100.0, TIGHT, full=0.2), at(3))
    assert (plan.level, plan.reason) == (4, "memory stalls 20% of the time")


def test_a_second_step_waits_for_the_dwell_time() -> None:
    assert after(moment(100.0, TIGHT, full=0.2), at(3, changed_s=95.0)).level == 3
    assert after(moment(100.0, TIGHT, full=0.2), at(3, changed_s=90.0)).level == 4


def test_weights_that_come_back_from_disk_are_a_sign_of_strain() -> None:
    before = at(2, faults=1000, at_s=99.0)
    many = 1000 + int(FAULTS_S) + 1
    assert after(moment(100.0, TIGHT, faults=many), before).reason == "101 major faults/s"
    assert after(moment(100.0, faults=1010), before).level < 2  # calm: it grows


def test_with_much_to_spare_nothing_is_strain() -> None:
    stalled = moment(100.0, full=0.9, faults=10_000, limit_mib=4096)
    plan = after(stalled, at(0, base=0, faults=0, at_s=99.0))
    assert (plan.level, plan.reason) == (0, "as before")


def test_strain_never_takes_what_frees_nothing() -> None:
    state = at(0)
    for tick in range(30):
        plan, state = decide(moment(100.0 + 20 * tick, 560, full=0.9), PROFILE, BOX, state)
    assert (plan.rungs, plan.max_tokens) == (("caches", "sequences", "batch"), None)
    assert levels(LADDER)[plan.level + 1].max_tokens == 512


def test_each_growth_that_is_undone_makes_the_next_one_wait_longer() -> None:
    state, ups = at(3), []
    for tick in range(1200):
        # Strain as soon as it is wider than level 3, at which all is calm.
        strained = 0.9 if state.level < 3 else 0.0
        before = state.level
        _, state = decide(moment(float(tick), TIGHT - 30, full=strained), PROFILE, BOX, state)
        if state.level < before:
            ups.append(tick)
    waits = [b - a for a, b in pairwise(ups)]
    assert len(ups) > 3
    assert waits == sorted(waits)
    assert waits[-1] > 4 * waits[0]


def test_who_takes_memory_again_and_again_is_given_way_to() -> None:
    state, falls = START, list[int]()
    for second in range(3600):
        before = state
        others = 300 if second % 50 < 20 else 0
        _, state = decide(moment(float(second), others, limit_mib=768), PROFILE, BOX, before)
        if state.level > before.level:
            falls.append(second)
    waits = [b - a for a, b in pairwise(falls)]
    assert waits == sorted(waits)
    assert waits[-1] > PROFILE.calm_s * 2**MOST_UNDONE
    for second in range(3600, 3600 + 2 * waits[-1]):
        _, state = decide(moment(float(second), 0, limit_mib=768), PROFILE, BOX, state)
    assert state.level == after(moment(limit_mib=768)).level


def test_a_growth_that_lasts_forgets_those_that_did_not() -> None:
    state = at(3, base=USUAL, grew=True, undone=2, changed_s=40.0, calm_since_s=40.0)
    _, early = decide(moment(80.0, TIGHT), PROFILE, BOX, state)
    assert (early.grew, early.undone) == (True, 2)
    _, late = decide(
        moment(40.0 + PROFILE.dwell_s + 4 * PROFILE.calm_s + 1, TIGHT), PROFILE, BOX, early
    )
    assert (late.grew, late.undone) == (False, 0)


def test_a_burst_of_faults_between_two_ticks_is_no_strain() -> None:
    before = at(3, faults=1000, at_s=99.95)
    plan, state = decide(moment(100.0, TIGHT, faults=1006), PROFILE, BOX, before)
    assert plan.level == 3
    assert (state.faults, state.at_s) == (1000, 99.95)
    assert after(moment(100.95, TIGHT, faults=1200), state).reason == "200 major faults/s"


def test_strain_takes_a_level_that_frees_something() -> None:
    box, _, state, now = begun("smollm2-135m", 512)
    assert state.base > 0  # so that some levels take nothing more
    frees = []
    for tick in range(10):
        later = replace(now, now_s=100.0 + 20 * tick)
        later = replace(later, readings=replace(now.readings, memory=Pressure(0.9, 0.9)))
        before, (plan, state) = state, decide(later, PROFILE, box, state)
        if state.level > before.level:
            old, _ = decide(replace(later, readings=now.readings), PROFILE, box, before)
            frees.append(old.needed - plan.needed)
    assert frees
    assert min(frees) > 0


def test_a_counter_that_fell_with_its_worker_is_no_strain() -> None:
    assert after(moment(100.0, faults=5), at(0, faults=1000, at_s=99.0)).level == 0


def test_growth_is_a_bounded_step_after_calm() -> None:
    assert after(moment(100.0), at(8)).level == 8 - GROW_LEVELS
    assert after(moment(100.0), at(8, calm_since_s=90.0)).level == 8
    assert after(moment(100.0), at(8, calm_since_s=None)).level == 8
    assert after(moment(100.0), at(8, changed_s=95.0)).level == 8


def test_growth_needs_more_than_it_takes_so_that_it_does_not_swing() -> None:
    for others in range(0, 700, 5):
        needed = after(moment(100.0, others)).level
        plan = after(moment(100.0, others), at(min(LAST, needed + 1)))
        if plan.level == needed:  # it grew: then a little more pressure does not throw it back
            assert after(moment(100.0, others + 30), at(needed)).level == needed


def test_an_idle_model_goes_before_sequences_do() -> None:
    idle = replace(GEMMA, idle_s=1000.0)
    plan = after(moment(100.0, 0, SMOLLM, idle))
    assert (plan.unload, plan.level) == (("gemma3-270m",), 0)
    assert set(plan.settings) == {"smollm2-135m"}
    busy = after(moment(100.0, 0, SMOLLM, GEMMA))
    assert busy.unload == ()
    assert "sequences" in busy.rungs


def test_an_idle_model_stays_where_there_is_room() -> None:
    plan = after(moment(100.0, 0, SMOLLM, replace(GEMMA, idle_s=1000.0), limit_mib=4096))
    assert (plan.unload, plan.level) == ((), 0)


def test_the_last_model_is_never_unloaded() -> None:
    assert after(moment(100.0, 900, replace(SMOLLM, idle_s=1e6))).unload == ()


def test_a_governor_that_is_off_keeps_everything() -> None:
    plan = after(moment(100.0, 900, full=1.0), profile=Governor(enabled=False))
    assert (plan.level, plan.rungs) == (0, ())


def test_a_rung_that_the_profile_leaves_out_is_never_taken() -> None:
    plan = after(moment(100.0, 900), profile=Governor(ladder=("sequences", "shed")))
    assert plan.rungs == ("sequences", "shed")
    assert plan.settings["smollm2-135m"].kv_type == "f16"
    assert plan.settings["smollm2-135m"].context == 2048


def test_what_the_profile_fixes_shrinks_while_running() -> None:
    fixed = Model(replace(SMOLLM.wish, concurrency=4, context=1024, batch=512, kv_type="f16"))
    top, low = after(moment(100.0, 0, fixed)), after(moment(100.0, 700, fixed))
    assert top.settings["smollm2-135m"] == lowered(fixed.wish, levels(())[0].step)
    assert (top.settings["smollm2-135m"].concurrency, top.settings["smollm2-135m"].context) == (
        4,
        1024,
    )
    assert low.settings["smollm2-135m"].concurrency < 4


def test_each_level_needs_no_more_than_the_one_before() -> None:
    for ladder in (LADDER, tuple(reversed(LADDER))):
        needed = [
            costs(SMOLLM.wish.shape, lowered(SMOLLM.wish, level.step), BOX.repacks).needed
            for level in levels(ladder)
        ]
        assert needed == sorted(needed, reverse=True)


pressures = st.tuples(
    st.integers(0, 1100), st.sampled_from([0.0, 0.01, 0.5]), st.integers(0, 3000), st.booleans()
)


@settings(deadline=None)
@given(st.lists(pressures, max_size=30))
def test_no_plan_is_above_the_limit_while_any_level_is_below(
    story: list[tuple[int, float, int, bool]],
) -> None:
    state = START
    for tick, (others, full, faults, second) in enumerate(story):
        models = (SMOLLM, replace(GEMMA, idle_s=float(faults))) if second else (SMOLLM,)
        now = moment(tick * 1.0, others, *models, full=full, faults=faults)
        before = state
        plan, state = decide(now, PROFILE, BOX, before)
        assert plan.fits or plan.level == LAST
        assert plan.level >= before.level - GROW_LEVELS
        assert state.level == plan.level


@settings(deadline=None)
@given(
    st.integers(0, LAST),
    st.floats(0, 200),
    st.none() | st.floats(0, 200),
    st.integers(0, 1000),
    st.integers(0, 300),
)
def test_more_pressure_never_means_more(
    level: int, changed_s: float, calm_since_s: float | None, others: int, more: int
) -> None:
    before = at(level, changed_s=changed_s, calm_since_s=calm_since_s)
    low, high = (after(moment(200.0, taken), before) for taken in (others, others + more))
    assert high.level >= low.level
    assert after(moment(200.0, others, full=0.5), before).level >= low.level


@settings(deadline=None)
@given(st.lists(pressures, max_size=20))
def test_it_returns_to_the_top_when_the_pressure_is_over(
    story: list[tuple[int, float, int, bool]],
) -> None:
    state, now_s = START, 0.0
    for others, full, faults, _ in story:
        now_s += 1.0
        _, state = decide(moment(now_s, others, full=full, faults=faults), PROFILE, BOX, state)
    calm_for = PROFILE.calm_s * 2**MOST_UNDONE + PROFILE.dwell_s * (LAST // GROW_LEVELS + 2)
    faults = story[-1][2] if story else 0
    for _ in range(int(calm_for / PROFILE.dwell_s) + 1):
        now_s += PROFILE.dwell_s
        _, state = decide(moment(now_s, 0, faults=faults), PROFILE, BOX, state)
    assert state.level == 0


def test_a_kill_by_the_kernel_takes_one_step() -> None:
    killed = moment(100.0)
    killed = replace(killed, readings=replace(killed.readings, kills=1))
    plan = after(killed, at(2, kills=0))
    assert (plan.level, plan.reason) == (3, "the kernel killed for memory")
    assert after(killed, at(2, kills=1)).level < 3


SMALL = [
    (path, mib) for path in ("smollm2-135m", "gemma3-270m") for mib in (260, 300, 350, 400, 500)
]


def begun(name: str, mib: int, cache_bytes: int = 0) -> tuple[Box, Model, State, Moment]:
    """Return a host as it begins in a box: planned by `fit`, and loaded."""
    room = mib * MIB
    box = Box(room, BOX.repacks, FRONT + cache_bytes, kept_free(room, PROFILE.headroom))
    model = Model(Wish(name, BY_NAME[name], snapshot_bytes=128 * MIB))
    fitted = fit([model.wish], box)
    now = moment(100.0, 0, model, limit_mib=mib, ours_mib=mib // 4)
    return box, model, State(base=fitted.step), replace(now, result_cache_bytes=cache_bytes)


@pytest.mark.parametrize(("name", "mib"), SMALL)
def test_what_fits_at_the_start_is_neither_shrunk_nor_shed_by_the_first_look(
    name: str, mib: int
) -> None:
    try:
        box, model, state, now = begun(name, mib, 16 * MIB)
    except DoesNotFit:
        return
    plan, _ = decide(now, PROFILE, box, state)
    assert (plan.level, plan.rungs, plan.max_tokens, plan.shed) == (0, (), None, None)
    assert plan.settings == {name: fit([model.wish], box).settings[0]}
    assert plan.result_cache_bytes == 16 * MIB


def test_a_host_that_began_small_grows_when_there_is_room() -> None:
    box, model, state, _ = begun("smollm2-135m", 400)
    assert state.base > 0
    for tick in range(200):
        plan, state = decide(moment(float(tick), 0, model, limit_mib=4096), PROFILE, box, state)
    assert state.base == 0
    assert plan.settings["smollm2-135m"].concurrency == 16
    assert plan.rungs == ()


def test_what_outgrows_every_prediction_counts() -> None:
    assert after(moment(100.0, ours_mib=600)).level == 0
    grown = after(moment(100.0, ours_mib=1000))
    assert grown.level > 0
    assert grown.needed > after(moment(100.0, ours_mib=600), at(grown.level)).needed


WITH_FALLBACK = replace(GEMMA, wish=replace(GEMMA.wish, fallback="smollm2-135m"))
AT_FALLBACK = next(at for at, level in enumerate(levels(LADDER)) if level.fallback)


def test_a_model_with_a_fallback_goes_before_anybody_is_refused() -> None:
    idle = replace(WITH_FALLBACK, idle_s=1.0)
    for others in range(0, 1000, 10):
        plan = after(moment(100.0, others, SMOLLM, idle, ours_mib=200))
        if plan.shed is not None:
            break
        assert plan.fits
        assert ("fallback" in plan.rungs) == ("gemma3-270m" in plan.unload)
        assert ("fallback" in plan.rungs) == (plan.instead == {"gemma3-270m": "smollm2-135m"})
    assert "fallback" in after(moment(100.0, others - 10, SMOLLM, idle, ours_mib=200)).rungs


def test_a_model_with_a_fallback_ends_what_it_has_first() -> None:
    busy = after(moment(100.0, 0, SMOLLM, WITH_FALLBACK), at(AT_FALLBACK, changed_s=99.0))
    assert (busy.unload, set(busy.instead)) == ((), {"gemma3-270m"})
    assert set(busy.settings) == {"smollm2-135m", "gemma3-270m"}


def test_a_model_with_a_fallback_that_still_works_has_nobody_refused() -> None:
    held = replace(WITH_FALLBACK, held=200 * MIB)
    for others in range(0, 1000, 10):
        idle = after(moment(100.0, others, SMOLLM, replace(held, idle_s=1.0), ours_mib=200))
        busy = after(moment(100.0, others, SMOLLM, held, ours_mib=200))
        assert (busy.level, busy.shed) == (idle.level, idle.shed)


def test_of_idle_models_one_goes_that_has_a_process() -> None:
    resting = replace(WITH_FALLBACK, resting=True, idle_s=9000.0)
    third = replace(GEMMA, wish=replace(GEMMA.wish, name="third"), idle_s=900.0)
    plan = after(moment(100.0, 0, SMOLLM, resting, third))
    assert "third" in plan.unload


@pytest.mark.parametrize("least", [300, 1024, 1500, 2048])
def test_no_context_is_too_small_for_what_was_accepted(least: int) -> None:
    model = replace(SMOLLM, wish=replace(SMOLLM.wish, least_context=least))
    plan = after(moment(100.0, 900, model))
    assert (plan.level, plan.contexts) == (LAST, {"smollm2-135m": 2048})
    assert least <= plan.settings["smollm2-135m"].context < least + 256


@pytest.mark.parametrize(("name", "mib"), SMALL)
def test_structured_output_that_has_room_has_nobody_refused(name: str, mib: int) -> None:
    try:
        box, model, state, now = begun(name, mib, 16 * MIB)
    except DoesNotFit:
        return
    asked = replace(model, wish=replace(model.wish, constrained=True), held=now.models[0].held)
    now = replace(now, models=(asked,))
    plan, _ = decide(now, PROFILE, box, state)
    harsh = {"context", "fallback", "shed"} & set(plan.rungs)
    assert bears(now, PROFILE, box, state.base) == (plan.fits and not harsh)


def test_what_one_process_outgrew_is_not_hidden_by_what_another_has_not_touched() -> None:
    now = moment(100.0, ours_mib=100)
    grown = replace(now, front=now.front + 100 * MIB)
    assert after(grown).needed > after(now).needed + 40 * MIB
