"""The models of a running host: a lane and a keeper for each, and how they change while it serves.

Invariant: a change happens as a whole or not at all: every worker it needs is ready before the
first name leads elsewhere. A worker that gives way first ends what it has, and nobody's request
is lost where there is no memory for two: then the keeper resumes it in the next worker.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import structlog

from rayhost.cli.changes import Planned
from rayhost.errors import RayhostError
from rayhost.front.lane import Lane
from rayhost.front.request import WorkerHealth
from rayhost.governor.readings import Kernel
from rayhost.ipc.messages import Load
from rayhost.metrics import WorkerReading
from rayhost.profile import ModelProfile
from rayhost.supervisor.incarnation import only_sizes_differ
from rayhost.supervisor.keeper import Keeper

# The next worker is taken to need as much as the one it replaces, and half as much again, as its
# settings may be larger.
_WARM_FACTOR = 1.5
_WARM_RESERVE = 64 << 20

_log = structlog.get_logger("rayhost.fleet")


@dataclass(frozen=True, slots=True)
class Part:
    """One model that is served."""

    lane: Lane
    keeper: Keeper


Make = Callable[[ModelProfile, Load | RayhostError], Part]
Room = Callable[[Part], bool]


def room_for_two(part: Part) -> bool:
    """Tell whether this box could hold another worker like a part's."""
    needed = _WARM_FACTOR * part.keeper.reading().rss_bytes + _WARM_RESERVE
    return Kernel().read().room >= needed


class Fleet:
    """Lives in the event loop's thread. One change at a time; the caller sees to that."""

    def __init__(self, make: Make, room: Room = room_for_two) -> None:
        """`make` builds a part and starts nothing; `room` decides whether two workers fit."""
        self._make = make
        self._room = room
        self.parts: list[Part] = []  # in the profile's order
        self._coming: list[Part] = []
        self._leaving: list[Part] = []

    @property
    def lanes(self) -> list[Lane]:
        """Those that are served now."""
        return [part.lane for part in self.parts]

    def start(self, planned: Sequence[Planned]) -> None:
        """Start the first models."""
        self.parts = [self._make(*one) for one in planned]
        for part in self.parts:
            part.keeper.start()

    async def prepare(
        self,
        planned: Sequence[Planned],
        replaced: Collection[str],
        retried: Collection[str] = (),
    ) -> list[Part]:
        """Bring up every worker that the new models need; return the parts, in their order.

        Nothing leads to the new parts before `commit`. Raises RayhostError for one that does not
        load: nothing has changed then. One of `retried` may fail once more.
        """
        old = {part.lane.name: part for part in self.parts}
        parts: list[Part] = []
        paused: list[Part] = []
        try:
            for model, load in planned:
                part = old.get(model.name)
                if part is not None and model.name not in replaced:
                    parts.append(part)
                elif part is None or self._beside(part, load):
                    parts.append(await self._bring(model, load, may_fail=model.name in retried))
                else:
                    if isinstance(load, RayhostError):
                        raise load
                    paused.append(part)
                    parts.append(part)
            await self._replace(paused, {model.name: load for model, load in planned})
        except BaseException:
            for part in self._coming:
                await part.keeper.stop()
            self._coming.clear()
            raise
        return parts

    def commit(self, parts: Sequence[Part]) -> list[Part]:
        """Serve these parts from now on; return those that give way, to be given to `retire`."""
        leaving = [part for part in self.parts if part not in parts]
        self.parts = list(parts)
        self._coming.clear()
        self._leaving += leaving
        return leaving

    async def retire(self, part: Part, drain_s: float) -> None:
        """Let a part end what it has, for a while, and stop it."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(part.lane.idle.wait(), drain_s)
        await part.keeper.stop()
        self._leaving.remove(part)
        _log.info("model left", model=part.lane.name)

    async def idle(self) -> None:
        """Return once no request is left anywhere."""
        for part in [*self.parts, *self._leaving]:
            await part.lane.idle.wait()

    async def stop(self) -> None:
        """End every worker."""
        every = [*self.parts, *self._coming, *self._leaving]
        await asyncio.gather(*(part.keeper.stop() for part in every))

    def kill(self) -> None:
        """End every worker now, whatever it does."""
        for part in [*self.parts, *self._coming, *self._leaving]:
            part.keeper.kill()

    def health(self) -> list[WorkerHealth]:
        """Read the pulse of every worker that is served from."""
        return [part.keeper.health() for part in self.parts]

    def readings(self) -> list[WorkerReading]:
        """Return the figures of a metrics scrape."""
        return [part.keeper.reading() for part in self.parts]

    def stuck(self) -> str:
        """Return which worker was killed and does not die, or nothing."""
        stuck = (part.lane.name for part in self.parts if part.keeper.dying)
        return next((f"the worker of {name} does not die" for name in stuck), "")

    def _beside(self, part: Part, load: Load | RayhostError) -> bool:
        """Tell whether another worker is to be ready before a part's goes."""
        if part.lane.state == "failed":
            return True
        before = part.keeper.load
        if isinstance(before, Load) and isinstance(load, Load) and only_sizes_differ(before, load):
            return False  # the same worker takes them
        return self._room(part)

    async def _bring(
        self, model: ModelProfile, load: Load | RayhostError, *, may_fail: bool
    ) -> Part:
        if isinstance(load, RayhostError) and not may_fail:
            raise RayhostError(f"model {model.name!r}: {load}")
        part = self._make(model, load)
        self._coming.append(part)
        part.keeper.start()
        await part.keeper.settled.wait()
        if part.lane.state == "failed" and not may_fail:
            raise RayhostError(f"model {model.name!r}: {part.lane.reason}")
        return part

    async def _replace(self, parts: list[Part], loads: dict[str, Load | RayhostError]) -> None:
        """Put other settings in force where they are; the ones from before, if one fails."""
        done: list[tuple[Part, Load]] = []
        try:
            for part in parts:
                before, load = part.keeper.load, loads[part.lane.name]
                if isinstance(before, Load) and isinstance(load, Load):
                    await part.keeper.replace(load)
                    done.append((part, before))
        except RayhostError:
            for part, before in done:
                await part.keeper.replace(before)
            raise
