"""What front, workers and their children hold of memory now. Reads the kernel, decides nothing."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rayhost.errors import RayhostError
from rayhost.governor.fit import price
from rayhost.governor.readings import Kernel
from rayhost.supervisor.governed import Budget, Part, setting_of, wish_of
from rayhost.supervisor.surplus import Peak, Peaks


class Held(NamedTuple):
    """`front` and `workers`, by model, are in bytes, without file pages; `major_faults` a sum."""

    front: int
    workers: Mapping[str, int]
    major_faults: int


class Holdings:
    """Measures at each tick, and remembers the workers' peaks until they are gone."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._peaks = Peaks()

    def measured(self, parts: Sequence[Part], budget: Budget) -> Held:
        """Return what each of them holds. A worker's children count: they are in its costs."""
        own = self._kernel.process("self")
        workers: dict[str, int] = {}
        faults = 0
        for part in parts:
            name, load, pid = part.lane.name, part.keeper.load, part.keeper.pid
            process = None if pid is None else self._kernel.process(pid)
            if process is None or pid is None or isinstance(load, RayhostError):
                continue
            children = [self._kernel.process(child) for child in self._kernel.children(pid)]
            workers[name] = process.anonymous + process.shared
            workers[name] += sum(child.anonymous for child in children if child)
            faults += process.major_faults
            if part.lane.state == "ready":
                predicted = price(wish_of(part, budget), setting_of(load), budget.box)
                remember = budget.demands[name].remember
                self._peaks.saw(name, pid, load, Peak(predicted, process.peak), remember)
        # What is shared, the workers share.
        return Held(own.anonymous if own else 0, workers, faults)

    def close(self) -> None:
        """Tell of the workers that are still there: they are about to be gone."""
        self._peaks.close()
