"""Reloads that meet: a newer one takes the place of those that wait, a bad one of none."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rayhost.cli.access import Access
from rayhost.cli.changes import Reloaded, Setup
from rayhost.cli.reloading import Reloads
from rayhost.errors import RayhostError
from rayhost.front.keys import KeyRing
from rayhost.governor.fit import Box
from rayhost.models.fetch import Stopped
from rayhost.profile import ModelProfile, Profile
from rayhost.supervisor.governed import Budget
from rayhost.systemd import Notifier
from tests.support.waiting import soon

DONE = Reloaded((), (), (), (), ())


class Bench:
    """A profile, an index that never answers, and what was applied."""

    def __init__(self, folder: Path) -> None:
        self.profile: Profile | RayhostError = Profile((ModelProfile("first"),))
        self.stalls = True
        self.stalling = threading.Event()
        self.applied: list[str] = []
        self.going_down = asyncio.Event()
        self.access = Access(KeyRing(folder / "keys.json"), (), "")
        self.reloads = Reloads(
            reread=self._reread,
            plan=self._plan,
            apply=self._apply,
            notifier=Notifier(),
            status=lambda: "",
            going_down=self.going_down,
        )

    def _reread(self) -> tuple[Profile, Access]:
        if isinstance(self.profile, RayhostError):
            raise self.profile
        return self.profile, self.access

    def _plan(self, profile: Profile, access: Access, alive: Callable[[], None]) -> Setup:
        while self.stalls:
            alive()
            self.stalling.set()
        return Setup(profile, access, [(profile.models[0], RayhostError())], Budget(Box(0, {})))

    async def _apply(self, new: Setup) -> Reloaded:
        self.applied.append(new.profile.models[0].name)
        return DONE

    async def pulling(self) -> asyncio.Task[Reloaded]:
        """A reload that waits for the index."""
        task = self.reloads.begin()
        await soon(self.stalling.is_set, "the pull")
        return task


async def test_a_newer_reload_ends_the_pull_of_one_before(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    older = await bench.pulling()
    bench.profile = Profile((ModelProfile("second"),))
    newer = bench.reloads.begin()
    with pytest.raises(Stopped, match="newer reload"):
        await older
    bench.stalls = False
    assert await newer == DONE
    assert bench.applied == ["second"]


async def test_of_those_that_wait_only_the_newest_is_applied(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    older = await bench.pulling()
    *outdated, newest = [bench.reloads.begin() for _ in range(3)]
    for one in (older, *outdated):
        with pytest.raises(Stopped):
            await one
    bench.stalls = False
    assert await newest == DONE
    assert bench.applied == ["first"]


async def test_a_bad_profile_is_told_while_another_pulls_and_ends_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    older = await bench.pulling()
    bench.profile = RayhostError("no such setting")
    with pytest.raises(RayhostError, match="no such setting"):
        await bench.reloads.asked()
    bench.stalls = False
    assert await older == DONE
    assert bench.applied == ["first"]


async def test_a_host_that_goes_down_pulls_nothing_any_more(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    older = await bench.pulling()
    bench.going_down.set()
    with pytest.raises(Stopped, match="going down"):
        await older
    assert bench.applied == []


async def test_a_reload_goes_on_where_nobody_waits_for_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    asked = asyncio.create_task(bench.reloads.asked())
    await soon(bench.stalling.is_set, "the pull")
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    bench.stalls = False
    await soon(lambda: bench.applied == ["first"], "the end of the reload")
