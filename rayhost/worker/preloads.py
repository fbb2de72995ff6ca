"""The beginnings that the snapshot store is to hold whatever else comes and goes.

Invariant: what is missing is computed one by one, as a sequence that gives its slot to any request,
and whose prompt comes after everybody's. So a store that was made smaller, or whose snapshots
became useless, fills again while requests go on. Called by the step loop, on its thread.
"""

from collections.abc import Sequence as List

import structlog

from rayhost.ipc.messages import pack_tokens
from rayhost.ipc.sampling import Sampling
from rayhost.worker.cells import Cells
from rayhost.worker.output import TextStream
from rayhost.worker.scheduler import Scheduler
from rayhost.worker.sequence import Sequence
from rayhost.worker.snapshots import Snapshots

_NOBODY = -1  # no request's id
_LAST = 1 << 16  # after every priority of the front's

_log = structlog.get_logger("rayhost.worker")


class Preloads:
    """A context has room for each of `beginnings`; one without any token is as good as held."""

    def __init__(self, beginnings: List[list[int]], snapshots: Snapshots) -> None:
        self.beginnings = beginnings
        self._snapshots = snapshots
        self._keys = [pack_tokens(tokens) for tokens in beginnings]
        self._too_small = [0] * len(beginnings)  # the largest limit that had no room for it
        self._current: tuple[int, Sequence] | None = None

    @property
    def missing(self) -> bool:
        """True while one is not held that there may be room for."""
        return self._next() is not None

    def turn(self, scheduler: Scheduler) -> None:
        """Let the next one in where a slot is to spare; take it out where somebody wants its slot.

        What it has computed stays in the cells of the slot, and is found again.
        """
        if self._current is not None:
            if scheduler.spare < 0:
                scheduler.remove(self._current[1])
                self._current = None
            return
        while scheduler.spare > 0 and (number := self._next()) is not None:
            if self._snapshots.pin(self._keys[number]):  # left there by a request, or from disk
                continue
            sequence = _sequence(self.beginnings[number])
            self._current = number, sequence
            scheduler.add(sequence)
            return

    def computed(self, scheduler: Scheduler, cells: Cells) -> None:
        """Have the store hold the current one, if the last step completed it."""
        if self._current is None or self._current[1].missing:
            return
        number, sequence = self._current
        self._current = None
        if not cells.pin(sequence.slot, self.beginnings[number]):
            self._give_up(number)
        scheduler.remove(sequence)

    def interrupted(self) -> None:
        """The cells of every slot are gone, and the scheduler that had the current one."""
        self._current = None

    def fit(self, limit_bytes: int, longest: int) -> None:
        """Make the store fit a limit, where snapshots of up to `longest` tokens are of use.

        Those that are lost for another reason than room are computed again.
        """
        held = [number for number, key in enumerate(self._keys) if self._snapshots.holds(key)]
        self._snapshots.fit(limit_bytes, longest)
        if not longest:  # of another KV type, they have another size
            self._too_small = [0] * len(self._keys)
            return
        for number in held:
            if not self._snapshots.holds(self._keys[number]):
                self._give_up(number)

    def _next(self) -> int | None:
        limit = self._snapshots.limit_bytes
        for number, key in enumerate(self._keys):
            if key and limit > self._too_small[number] and not self._snapshots.holds(key):
                return number
        return None

    def _give_up(self, number: int) -> None:
        """Until the store becomes larger."""
        self._too_small[number] = self._snapshots.limit_bytes
        _log.warning("preload does not fit into snapshots.ram_mb", prompt=number + 1)


def _sequence(tokens: list[int]) -> Sequence:
    return Sequence(
        request_id=_NOBODY,
        tokens=list(tokens),
        n_prompt=len(tokens),
        max_tokens=0,
        sampling=Sampling(),
        text=TextStream(()),
        priority=_LAST,
    )
