"""The governor at work, over a box and keepers that the test plays."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from msgspec import structs
from structlog.testing import capture_logs

from rayhost.errors import Overloaded, RayhostError
from rayhost.front.admission import Bounds
from rayhost.front.lane import Lane
from rayhost.front.relief import NONE, Relief
from rayhost.front.request import Priority
from rayhost.front.result_cache import ResultCache
from rayhost.governor.costs import MIB
from rayhost.governor.fit import STEPS, USUAL, Box, Wish, fit, setting
from rayhost.governor.readings import Kernel, Process, Readings
from rayhost.ipc.messages import Load
from rayhost.metrics import Metrics
from rayhost.models.catalog_shapes import BY_NAME
from rayhost.profile import Governor
from rayhost.supervisor.governed import Budget, Demand
from rayhost.supervisor.governing import Governing
from tests.front.fake_worker import request
from tests.supervisor.kept import load_of
from tests.support.waiting import soon

LIMIT = 768
OWN = "self"
CALM = Governor(calm_s=5.0, dwell_s=1.0, idle_s=60.0)


class FakeKernel(Kernel):
    """A box of `LIMIT` MiB of which others hold `others` MiB, and processes of 300 MiB."""

    def __init__(self) -> None:
        self.others = 0
        self.cores_now = 2.0
        self.workers: dict[int, Process] = {}
        self.children_of: dict[int, dict[int, Process]] = {}
        self.story: list[str] = []  # what keepers did, in order

    def read(self) -> Readings:
        ours = 37 + 300 * len(self.workers)
        used = min(LIMIT, ours + self.others) * MIB
        return Readings(
            limit=LIMIT * MIB,
            used=used,
            cached=0,
            available=1 << 40,
            cgroup=True,
            memory=None,
            cores=self.cores_now,
        )

    def process(self, pid: int | str) -> Process | None:
        if pid == OWN:
            return Process(55 * MIB, 37 * MIB, 0, 55 * MIB, 0)
        everyone = {**self.workers}
        for children in self.children_of.values():
            everyone |= children
        return everyone.get(int(pid))

    def children(self, pid: int) -> list[int]:
        return list(self.children_of.get(pid, ()))


@dataclass
class FakeKeeper:
    """Takes whatever it is given, at once; or nothing, when `broken`."""

    lane: Lane
    kernel: FakeKernel
    load: Load
    pid: int | None
    broken: bool = False
    did: list[str] = field(default_factory=list)

    async def resize(self, change: Callable[[Load], Load]) -> None:
        changed = change(self.load)
        if changed == self.load:
            return
        self.did.append("resize")
        self.kernel.story.append(f"{self.lane.name} resized")
        if self.broken:
            raise RayhostError("the new sizes cannot be had")
        self.load = changed

    async def unload(self) -> None:
        self.did.append("unload")
        await asyncio.sleep(0)
        self.kernel.story.append(f"{self.lane.name} unloaded")
        assert self.pid is not None
        del self.kernel.workers[self.pid]
        self.lane.state, self.pid = "unloaded", None

    def wake(self, change: Callable[[Load], Load]) -> None:
        self.did.append("wake")
        self.load = change(self.load)
        self.run(77)

    def run(self, pid: int) -> None:
        self.pid, self.lane.state = pid, "ready"
        self.kernel.workers[pid] = Process(320 * MIB, 299 * MIB, MIB, 320 * MIB, 0)


@dataclass
class FakePart:
    lane: Lane
    keeper: FakeKeeper


class Stage:
    """Everything the governor touches, and a clock."""

    def __init__(
        self, *names: str, profile: Governor = CALM, room_mib: int = 4096, threads: int | None = 2
    ) -> None:
        self.kernel = FakeKernel()
        self.remembered: list[int] = []
        self.relief: Relief = NONE
        self.results = ResultCache(16 * MIB, 60.0)
        self.now_s = 1000.0
        box = Box(room_mib * MIB, {"Q4_0": 8})
        wishes = [Wish(name, BY_NAME[name]) for name in names]
        base = max(USUAL, *(fit([wish], box).step for wish in wishes))
        self.parts = [
            self._part(wish, number, setting(wish, STEPS[base]))
            for number, wish in enumerate(wishes, 1)
        ]
        demands = {wish.name: Demand(wish, threads, self.remembered.append) for wish in wishes}
        self.governing = Governing(
            Budget(box, demands, profile, base),
            kernel=self.kernel,
            parts=lambda: self.parts,
            results=self.results,
            relieve=self._relieve,
            now_s=lambda: self.now_s,
        )

    def _part(self, wish: Wish, pid: int, setting: object) -> FakePart:
        lane = Lane(
            name=wish.name, aliases=(), concurrency=8, bounds=Bounds(100), metrics=Metrics()
        )
        sizes = {
            name: getattr(setting, name)
            for name in ("context", "concurrency", "batch", "ubatch", "kv_type", "kv_layout",
                         "flash_attention", "snapshot_bytes")
        }  # fmt: skip
        load = structs.replace(load_of(Path(wish.name)), name=wish.name, threads=2, **sizes)
        keeper = FakeKeeper(lane, self.kernel, load, pid)
        keeper.run(pid)
        return FakePart(lane, keeper)

    def _relieve(self, relief: Relief) -> None:
        self.relief = relief

    @property
    def keeper(self) -> FakeKeeper:
        return self.parts[0].keeper

    async def ticks(self, count: int = 1) -> None:
        for _ in range(count):
            await self.governing.tick()
            self.now_s += 1.0


async def test_with_room_nothing_is_done() -> None:
    stage = Stage("smollm2-135m")
    before = stage.keeper.load
    await stage.ticks(3)
    assert (stage.keeper.load, stage.keeper.did, stage.relief) == (before, [], NONE)
    assert stage.governing.state().needed_bytes < stage.governing.state().allowed_bytes


async def test_what_another_takes_is_given_up_within_a_tick_and_comes_back() -> None:
    stage = Stage("smollm2-135m")
    before = stage.keeper.load
    await stage.ticks(2)
    stage.kernel.others = 288
    await stage.ticks(1)
    assert stage.keeper.load.concurrency == 3
    assert stage.relief.rungs == ("caches", "sequences")
    assert stage.results.limit_bytes < 16 * MIB
    stage.kernel.others = 0
    await stage.ticks(4)
    assert stage.keeper.load.concurrency == 3  # not before it has been calm
    await stage.ticks(30)
    assert stage.keeper.load == before
    assert (stage.relief, stage.results.limit_bytes) == (NONE, 16 * MIB)


async def test_every_change_is_told_once_in_the_log() -> None:
    stage = Stage("smollm2-135m")
    with capture_logs() as lines:
        await stage.ticks(1)
        stage.kernel.others = 300
        await stage.ticks(3)
    (line,) = [line for line in lines if line["event"] == "degraded"]
    assert (line["log_level"], line["rungs"]) == ("warning", ("caches", "sequences"))


async def test_the_ladders_end_shortens_answers_and_refuses() -> None:
    stage = Stage("smollm2-135m")
    stage.kernel.others = 700
    stage.kernel.workers[1] = replace(stage.kernel.workers[1], anonymous=30 * MIB)
    await stage.ticks(1)
    assert stage.relief.max_tokens == 256
    assert stage.relief.shed is Priority.NORMAL


async def test_a_host_that_began_small_is_not_taken_for_one_that_wants_more() -> None:
    stage = Stage("smollm2-135m", room_mib=330)
    stage.kernel.workers[1] = replace(stage.kernel.workers[1], anonymous=119 * MIB)
    # As much as that box had, and what is kept free of this larger one.
    stage.kernel.others = LIMIT - 337 - (330 - 157) - int(0.06 * (LIMIT - 330)) - 16
    small = stage.keeper.load
    await stage.ticks(1)
    assert stage.keeper.load == small
    assert stage.governing.state().rungs == ()
    stage.kernel.others = 0
    await stage.ticks(200)
    assert stage.keeper.load.concurrency > small.concurrency


async def test_where_the_ladder_cannot_help_nothing_grows() -> None:
    stage = Stage("smollm2-135m", room_mib=330, profile=replace_ladder("shed"))
    stage.kernel.others = 700
    small = stage.keeper.load
    await stage.ticks(3)
    assert stage.keeper.load == small


async def test_sizes_that_cannot_be_had_are_not_asked_for_every_second() -> None:
    stage = Stage("smollm2-135m")
    await stage.ticks(1)
    stage.kernel.others = 300
    await stage.ticks(1)
    stage.kernel.others, stage.keeper.broken = 0, True
    small = stage.keeper.load
    stage.keeper.did.clear()
    await stage.ticks(20)
    assert stage.keeper.load == small
    assert 1 <= len(stage.keeper.did) <= 4


async def test_a_governor_that_is_off_changes_nothing_and_still_tells() -> None:
    stage = Stage("smollm2-135m", profile=structs.replace(CALM, enabled=False))
    stage.kernel.others = 700
    await stage.ticks(2)
    assert (stage.keeper.did, stage.relief) == ([], NONE)
    assert stage.governing.state().limit_bytes == LIMIT * MIB


async def test_a_quota_that_changes_changes_the_threads() -> None:
    stage = Stage("smollm2-135m")
    stage.kernel.cores_now = 0.5
    await stage.ticks(1)
    assert stage.keeper.load.threads == 1
    stage.kernel.cores_now = 4.0
    await stage.ticks(1)
    assert stage.keeper.load.threads == 2


async def test_threads_that_the_profile_names_stay() -> None:
    stage = Stage("smollm2-135m", threads=None)
    stage.kernel.cores_now = 0.5
    await stage.ticks(1)
    assert stage.keeper.load.threads == 2


def replace_ladder(*rungs: str) -> Governor:
    return structs.replace(CALM, ladder=rungs)


def idle(lane: Lane, seconds: float) -> None:
    """Make a lane one that nobody has asked for so long."""
    lane._used_ns -= int(seconds * 1e9)


async def unloaded() -> Stage:
    """A stage on which the second of two models was idle, and went."""
    stage = Stage("smollm2-135m", "gemma3-270m")
    idle(stage.parts[1].lane, 100.0)
    await stage.ticks(1)
    assert stage.parts[1].keeper.did == ["unload"]
    return stage


async def test_an_idle_model_goes_where_two_do_not_fit_and_the_other_stays_whole() -> None:
    stage = await unloaded()
    assert stage.keeper.load.concurrency == 8
    await stage.ticks(3)
    assert stage.parts[1].keeper.did == ["unload"]


async def test_a_request_brings_an_unloaded_model_back_as_small_as_it_must_be() -> None:
    stage = await unloaded()
    lane, keeper = stage.parts[1].lane, stage.parts[1].keeper
    lane._count(+1)
    await stage.ticks(1)
    assert keeper.did == ["unload", "wake"]
    assert keeper.load.concurrency < 8
    assert stage.keeper.load.concurrency == keeper.load.concurrency  # all alike


async def test_who_asks_for_a_model_that_does_not_fit_now_is_told_so() -> None:
    stage = await unloaded()
    lane = stage.parts[1].lane
    stage.kernel.others = 500
    asked = asyncio.create_task(lane.submit(request("r")))
    await soon(lambda: lane.idle_ns == 0, "the request")
    await stage.ticks(1)
    with pytest.raises(Overloaded, match="no memory") as caught:
        await asked
    assert caught.value.retry_after
    assert stage.parts[1].keeper.did == ["unload"]
    stage.kernel.others = 0
    await stage.ticks(1)  # who asks from now on waits for it
    lane._count(+1)
    await stage.ticks(1)
    assert stage.parts[1].keeper.did == ["unload", "wake"]


async def test_a_request_for_an_unloaded_model_does_not_wait_for_the_next_second() -> None:
    stage = await unloaded()
    lane = stage.parts[1].lane
    ticking = asyncio.create_task(stage.governing.run())
    asked = asyncio.create_task(lane.submit(request("r")))
    try:
        await soon(lambda: "wake" in stage.parts[1].keeper.did, "the model")
    finally:
        for task in (ticking, asked):
            task.cancel()
        await asyncio.gather(ticking, asked, return_exceptions=True)


async def test_who_works_keeps_its_context_when_another_model_is_asked_for() -> None:
    stage = await unloaded()
    stage.kernel.others = 120  # both fit, with half the context
    stage.parts[1].lane._count(+1)
    await stage.ticks(1)
    assert stage.parts[1].keeper.did == ["unload"]
    assert stage.keeper.load.context == 2048
    assert stage.relief.shed is None


async def test_who_is_asked_for_again_gets_the_room_that_it_had_at_the_start() -> None:
    stage = await unloaded()
    half = next(at for at, step in enumerate(STEPS) if step.context == 0.5)
    stage.governing.budget = replace(stage.governing.budget, base=half)
    stage.kernel.others = 120
    stage.parts[1].lane._count(+1)
    await stage.ticks(1)
    assert stage.parts[1].keeper.did == ["unload", "wake"]
    assert stage.keeper.load.context == 1024


async def test_no_context_becomes_too_small_for_what_was_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Lane, "least_context", 1500)
    stage = Stage("smollm2-135m")
    stage.kernel.others = 700
    stage.kernel.workers[1] = replace(stage.kernel.workers[1], anonymous=30 * MIB)
    await stage.ticks(1)
    assert stage.keeper.load.context == 1536
    assert stage.keeper.lane.full_context == 2048


async def test_a_request_that_came_since_the_plan_keeps_the_context() -> None:
    stage = Stage("smollm2-135m")
    stage.kernel.others = 700
    stage.kernel.workers[1] = replace(stage.kernel.workers[1], anonymous=30 * MIB)
    resize = stage.keeper.resize

    async def late(change: Callable[[Load], Load]) -> None:
        stage.keeper.lane._served = replace(stage.keeper.lane._served, preloaded=1500)
        await resize(change)

    stage.keeper.resize = late  # type: ignore[method-assign]
    await stage.ticks(1)
    assert stage.keeper.load.context == 2048
    await stage.ticks(1)
    assert stage.keeper.load.context == 1536


async def test_smaller_sizes_that_cannot_be_had_are_not_asked_for_at_every_tick() -> None:
    stage = Stage("smollm2-135m")
    stage.keeper.broken = True
    stage.kernel.others = 300
    for _ in range(20):
        await stage.governing.tick()
        stage.now_s += 0.2
    assert stage.keeper.did == ["resize"]
    stage.keeper.broken = False
    stage.now_s += CALM.calm_s
    await stage.ticks(1)
    assert stage.keeper.load.concurrency == 3


async def test_a_tick_that_fails_is_told_and_the_next_one_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage("smollm2-135m")
    asked = 0

    def read() -> Readings:
        nonlocal asked
        asked += 1
        raise ValueError("no number")

    monkeypatch.setattr(stage.kernel, "read", read)
    with capture_logs() as lines:
        ticking = asyncio.create_task(stage.governing.run())
        stage.governing.hurry()
        await soon(lambda: asked > 1, "another tick")
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
    assert [line["event"] for line in lines][:2] == ["tick failed"] * 2


async def test_structured_output_is_refused_where_it_would_have_others_refused() -> None:
    stage = Stage("gemma3-270m")
    await stage.ticks(1)
    stage.parts[0].lane.on_constrained()
    stage.kernel.others = 270
    await stage.ticks(1)
    assert not stage.relief.shed
    with pytest.raises(Overloaded, match="structured output") as caught:
        stage.parts[0].lane.on_constrained()
    assert (caught.value.code, caught.value.retry_after) == ("no_memory", 15)


async def test_what_a_worker_took_beyond_the_prediction_is_remembered() -> None:
    stage = Stage("smollm2-135m")
    pid = stage.keeper.pid
    assert pid is not None
    stage.kernel.workers[pid] = replace(stage.kernel.workers[pid], peak=900 * MIB)
    await stage.ticks(2)
    assert stage.remembered == []
    stage.keeper.run(99)  # another worker: the first is gone
    await stage.ticks(1)
    (surplus,) = stage.remembered
    assert 100 * MIB < surplus < 500 * MIB


async def test_a_worker_that_had_several_sizes_says_nothing_of_any() -> None:
    stage = Stage("smollm2-135m")
    pid = stage.keeper.pid
    assert pid is not None
    stage.kernel.workers[pid] = replace(stage.kernel.workers[pid], peak=900 * MIB)
    await stage.ticks(1)
    stage.kernel.others = 300
    await stage.ticks(2)
    stage.keeper.run(99)
    await stage.ticks(1)
    assert stage.remembered == []


async def test_room_is_made_for_structured_output_once_it_is_asked_for() -> None:
    stage = Stage("gemma3-270m")
    await stage.ticks(1)
    before = stage.governing.state()
    stage.parts[0].lane.constrained = True
    await stage.ticks(1)
    after = stage.governing.state()
    assert after.level > before.level
    assert after.needed_bytes <= after.allowed_bytes


async def test_what_a_workers_children_hold_is_ours_too() -> None:
    stage = Stage("smollm2-135m")
    pid = stage.keeper.pid
    assert pid is not None
    await stage.ticks(1)
    before = stage.governing.state().ours_bytes
    stage.kernel.children_of[pid] = {500: Process(30 * MIB, 11 * MIB, 0, 30 * MIB, 0)}
    await stage.ticks(1)
    assert stage.governing.state().ours_bytes == before + 11 * MIB


async def test_a_model_with_a_fallback_is_given_up_for_those_that_ask_for_it() -> None:
    stage = Stage("smollm2-135m", "gemma3-270m", profile=replace_ladder("caches", "fallback"))
    demands = dict(stage.governing.budget.demands)
    demands["gemma3-270m"] = Demand(
        replace(demands["gemma3-270m"].wish, fallback="smollm2-135m"), threads=2
    )
    stage.governing.budget = replace(stage.governing.budget, demands=demands)
    gemma = stage.parts[1]
    gemma.lane._count(+1)
    await stage.ticks(1)
    assert stage.relief.instead == {"gemma3-270m": "smollm2-135m"}
    assert gemma.keeper.did == []  # it still answers somebody
    gemma.lane._count(-1)
    await stage.ticks(1)
    assert gemma.keeper.did == ["unload"]
    await stage.ticks(1)
    assert stage.relief.instead == {"gemma3-270m": "smollm2-135m"}


async def with_fallback(*ladder: str) -> Stage:
    """A stage on which the second of two models was given up for the first, and went."""
    stage = Stage("smollm2-135m", "gemma3-270m", profile=replace_ladder(*ladder))
    demands = dict(stage.governing.budget.demands)
    demands["gemma3-270m"] = Demand(
        replace(demands["gemma3-270m"].wish, fallback="smollm2-135m"), threads=2
    )
    stage.governing.budget = replace(stage.governing.budget, demands=demands)
    stage.kernel.others = 20
    await stage.ticks(2)
    assert stage.parts[1].keeper.did[-1] == "unload"
    return stage


@pytest.mark.parametrize("ladder", [("caches", "fallback"), ("caches", "fallback", "shed")])
async def test_a_model_that_another_answers_for_is_not_loaded_for_a_question(
    ladder: tuple[str, ...],
) -> None:
    stage = await with_fallback(*ladder)
    lane, relief = stage.parts[1].lane, stage.relief
    assert relief.instead == {"gemma3-270m": "smollm2-135m"}
    lane._count(+1)  # as one does that has a text read
    await stage.ticks(1)
    assert "wake" not in stage.parts[1].keeper.did
    assert stage.relief == relief
    assert stage.governing.state().needed_bytes <= stage.governing.state().allowed_bytes


async def test_without_a_fallback_there_is_no_such_rung() -> None:
    stage = Stage("smollm2-135m")
    stage.kernel.others = 700
    await stage.ticks(1)
    assert "fallback" not in stage.relief.rungs


async def test_who_is_loaded_again_by_other_means_is_refused_no_more() -> None:
    stage = await unloaded()
    part = stage.parts[1]
    stage.kernel.others = 500
    part.lane._count(+1)
    await stage.ticks(1)
    assert part.lane._berth._closing
    part.keeper.run(99)  # by a reload
    await stage.ticks(1)
    assert not part.lane._berth._closing


async def test_a_governor_that_is_switched_off_gives_back_what_was_given_up() -> None:
    stage = Stage("smollm2-135m")
    before = stage.keeper.load
    stage.kernel.others = 700
    stage.kernel.workers[1] = replace(stage.kernel.workers[1], anonymous=30 * MIB)
    await stage.ticks(1)
    assert stage.relief.shed
    off = structs.replace(CALM, enabled=False)
    stage.governing.budget = replace(stage.governing.budget, profile=off)
    await stage.ticks(1)
    assert (stage.relief, stage.keeper.load) == (NONE, before)


async def test_another_ladder_is_entered_where_memory_wants_it() -> None:
    stage = Stage("smollm2-135m")
    stage.kernel.others = 288
    await stage.ticks(1)
    assert "sequences" in stage.relief.rungs
    stage.kernel.others = 0
    stage.governing.budget = replace(stage.governing.budget, profile=replace_ladder("shed"))
    await stage.ticks(1)
    assert stage.relief == NONE


async def test_a_model_that_cannot_be_made_smaller_makes_no_room_for_another() -> None:
    stage = await unloaded()
    stage.keeper.broken = True
    stage.parts[1].lane._count(+1)
    await stage.ticks(1)
    assert "wake" not in stage.parts[1].keeper.did
    stage.keeper.broken = False
    stage.now_s += CALM.calm_s
    await stage.ticks(2)
    assert stage.parts[1].keeper.did[-1] == "wake"


async def test_what_an_unloaded_model_held_is_taken_once_it_is_gone() -> None:
    stage = Stage("smollm2-135m", "gemma3-270m")
    stage.parts[1].lane._count(+1)
    await stage.ticks(1)  # both work, and are small
    stage.parts[1].lane._count(-1)
    stage.kernel.story.clear()
    idle(stage.parts[1].lane, 100.0)
    stage.now_s += 100.0
    await stage.ticks(40)
    assert stage.kernel.story[:2] == ["gemma3-270m unloaded", "smollm2-135m resized"]


async def test_sizes_that_never_come_are_not_taken_for_those_in_force() -> None:
    stage = Stage("smollm2-135m", room_mib=330)
    stage.kernel.workers[1] = replace(stage.kernel.workers[1], anonymous=119 * MIB)
    base = stage.governing.budget.base
    stage.keeper.broken = True
    await stage.ticks(30)
    assert stage.keeper.did
    assert stage.governing._state.base == base


async def test_a_longer_context_is_told_of_only_while_there_is_less() -> None:
    stage = Stage("smollm2-135m")
    await stage.ticks(1)
    assert stage.keeper.lane.full_context == 0
    stage.kernel.others = 700
    stage.kernel.workers[1] = replace(stage.kernel.workers[1], anonymous=30 * MIB)
    await stage.ticks(1)
    assert stage.keeper.lane.full_context == 2048
    stage.kernel.others = 0
    await stage.ticks(60)
    assert (stage.keeper.load.context, stage.keeper.lane.full_context) == (2048, 0)


async def test_a_run_that_was_promised_more_than_there_is_stops_no_resize() -> None:
    stage = Stage("smollm2-135m")
    stage.keeper.load = structs.replace(stage.keeper.load, context=1024)
    served = stage.keeper.lane._served
    stage.keeper.lane._served = replace(served, preloaded=1900)  # as a run of before may be
    wish = replace(stage.governing.budget.demands["smollm2-135m"].wish, context=1024)
    demands = {"smollm2-135m": Demand(wish, 2)}
    stage.governing.budget = replace(stage.governing.budget, demands=demands)
    before = stage.keeper.load
    stage.kernel.others = 400
    await stage.ticks(1)
    assert stage.keeper.load.concurrency < before.concurrency
    assert stage.keeper.load.context == 1024


async def test_only_what_gets_worse_is_a_warning() -> None:
    stage = Stage("smollm2-135m")
    with capture_logs() as lines:
        await stage.ticks(1)
        stage.kernel.others = 288
        await stage.ticks(1)
        stage.kernel.others = 0
        await stage.ticks(60)
    told = [(line["event"], line["log_level"]) for line in lines]
    assert told[0] == ("degraded", "warning")
    assert ("less degraded", "info") in told
    assert told[-1] == ("all as planned again", "info")
