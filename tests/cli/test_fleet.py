"""Models of a running host that change: all that a reload needs is there first, or nothing is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from rayhost.cli.changes import Planned
from rayhost.cli.fleet import Fleet, Part, room_for_two
from rayhost.errors import RayhostError
from rayhost.front.admission import Bounds
from rayhost.front.lane import Lane
from rayhost.front.request import GenerateRequest, TextPrompt
from rayhost.front.run import ActiveRun
from rayhost.governor.readings import Kernel, Readings
from rayhost.ipc.messages import Load
from rayhost.ipc.sampling import Sampling
from rayhost.metrics import Metrics
from rayhost.profile import ModelProfile
from rayhost.supervisor.keeper import Keeper
from tests.supervisor.kept import load_of, workers
from tests.support.waiting import soon

LONG = 480  # tokens


def make(model: ModelProfile, load: Load | RayhostError) -> Part:
    lane = Lane(name=model.name, aliases=(), concurrency=4, bounds=Bounds(100), metrics=Metrics())
    return Part(lane, Keeper(lane, load))


def planned(path: Path, name: str = "tiny", **fields: int) -> tuple[ModelProfile, Load]:
    return ModelProfile(name), structs.replace(load_of(path), name=name, **fields)


@asynccontextmanager
async def fleet_of(path: Path, *, room: bool) -> AsyncIterator[Fleet]:
    fleet = Fleet(make, lambda _part: room)
    fleet.start([planned(path)])
    try:
        await soon(lambda: fleet.lanes[0].state == "ready", "the first worker")
        yield fleet
    finally:
        await fleet.stop()
        assert workers() == []


async def submit(lane: Lane) -> ActiveRun:
    return await lane.submit(
        GenerateRequest("r", "tiny", TextPrompt("a"), Sampling(temperature=0.0), LONG)
    )


async def text_of(run: ActiveRun) -> str:
    return "".join([piece.text async for piece in run])


async def test_with_room_the_next_worker_is_ready_before_the_last_one_goes(
    tiny_model: Path,
) -> None:
    async with fleet_of(tiny_model, room=True) as fleet:
        (old,) = fleet.parts
        run = await submit(old.lane)
        changed = [planned(tiny_model, concurrency=2, inter_token_ms=50)]
        parts = await fleet.prepare(changed, ["tiny"])
        assert fleet.parts == [old]
        (leaving,) = fleet.commit(parts)
        assert leaving is old
        assert (fleet.lanes[0].state, fleet.lanes[0].concurrency) == ("ready", 2)
        assert len(workers()) == 2
        await text_of(run)
        await fleet.retire(leaving, drain_s=30)
        assert len(workers()) == 1


async def test_other_sizes_need_no_other_worker_even_where_there_is_room(tiny_model: Path) -> None:
    async with fleet_of(tiny_model, room=True) as fleet:
        (part,) = fleet.parts
        before = workers()
        parts = await fleet.prepare([planned(tiny_model, concurrency=2)], ["tiny"])
        assert parts == [part]
        assert fleet.commit(parts) == []
        assert part.lane.concurrency == 2
        assert workers() == before


async def test_room_is_what_the_box_has_not_the_machine(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = Kernel().read()

    def small(_: Kernel) -> Readings:
        return replace(now, limit=200 << 20, used=150 << 20, cached=0)

    async with fleet_of(tiny_model, room=True) as fleet:
        assert room_for_two(fleet.parts[0])
        monkeypatch.setattr(Kernel, "read", small)
        assert not room_for_two(fleet.parts[0])


async def test_without_room_requests_go_on_in_the_next_worker(tiny_model: Path) -> None:
    async with fleet_of(tiny_model, room=False) as fleet:
        (part,) = fleet.parts
        run = await submit(part.lane)
        await soon(lambda: run.produced, "a token")
        parts = await fleet.prepare([planned(tiny_model, concurrency=2)], ["tiny"])
        assert parts == [part]
        assert fleet.commit(parts) == []
        assert part.lane.concurrency == 2
        assert len(workers()) == 1
        await text_of(run)
        assert (run.finish.reason, run.finish.completion_tokens) == ("length", LONG)


@pytest.mark.parametrize("room", [True, False])
async def test_a_model_that_does_not_load_leaves_everything_as_it_was(
    tiny_model: Path, tmp_path: Path, room: bool
) -> None:
    (tmp_path / "text.gguf").write_text("this is no model")
    async with fleet_of(tiny_model, room=room) as fleet:
        before = fleet.parts[0].keeper.load
        for wrong in (
            [planned(tiny_model, concurrency=2), planned(tmp_path / "text.gguf", "second")],
            [planned(tmp_path / "text.gguf")],
            [(ModelProfile("tiny"), RayhostError("no such file"))],
        ):
            with pytest.raises(RayhostError):
                await fleet.prepare(wrong, ["tiny"])
            (part,) = fleet.parts
            await soon(lambda: fleet.lanes[0].state == "ready", "a worker with what was before")
            assert part.keeper.load == before
            assert part.lane.concurrency == 4
            assert len(workers()) == 1
        assert await text_of(await submit(fleet.lanes[0]))


async def test_settings_that_were_in_force_already_are_taken_back(
    tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.gguf").write_text("this is no model")
    async with fleet_of(tiny_model, room=False) as fleet:
        fleet.commit(await fleet.prepare([planned(tiny_model), planned(tiny_model, "second")], []))
        wrong = [planned(tiny_model, concurrency=2), planned(tmp_path / "text.gguf", "second")]
        with pytest.raises(RayhostError, match="do not load"):
            await fleet.prepare(wrong, ["tiny", "second"])
        assert [lane.concurrency for lane in fleet.lanes] == [4, 4]
        await soon(lambda: all(lane.state == "ready" for lane in fleet.lanes), "both workers")


async def test_a_model_that_failed_is_brought_up_again(tiny_model: Path, tmp_path: Path) -> None:
    fleet = Fleet(make)
    fleet.start([(ModelProfile("tiny"), RayhostError("no such file"))])
    parts = await fleet.prepare([planned(tiny_model)], ["tiny"])
    (leaving,) = fleet.commit(parts)
    await fleet.retire(leaving, drain_s=30)
    assert fleet.lanes[0].state == "ready"
    await fleet.stop()
    assert workers() == []


async def test_a_model_that_failed_may_fail_again_beside_one_that_comes(
    tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.gguf").write_text("this is no model")
    gone: Planned = (ModelProfile("gone"), RayhostError("no such file"))
    bad = planned(tmp_path / "text.gguf", "bad")
    fleet = Fleet(make)
    fleet.start([gone, bad])
    await soon(lambda: {one.state for one in fleet.lanes} == {"failed"}, "both to fail")
    wanted: list[Planned] = [gone, bad, planned(tiny_model)]
    with pytest.raises(RayhostError, match="'bad'"):
        await fleet.prepare(wanted, ["gone", "bad"], ["gone"])
    parts = await fleet.prepare(wanted, ["gone", "bad"], ["gone", "bad"])
    for part in fleet.commit(parts):
        await fleet.retire(part, drain_s=30)
    assert [lane.state for lane in fleet.lanes] == ["failed", "failed", "ready"]
    assert len(workers()) == 1
    await fleet.stop()
    assert workers() == []
