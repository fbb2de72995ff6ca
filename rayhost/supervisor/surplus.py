"""What workers took at most, beside what was predicted: told once each is gone. Pure but for that.

Only a worker that kept one size says anything: a peak does not tell which of several it was of.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from rayhost.governor.costs import Costs, surplus_of
from rayhost.ipc.messages import Load


class Peak(NamedTuple):
    """A prediction, and the highest resident size of the worker it was for, in bytes."""

    predicted: Costs
    resident: int


@dataclass(slots=True)
class _Life:
    pid: int
    load: Load
    peak: Peak
    remember: Callable[[int], None]
    steady: bool = True


class Peaks:
    """The peak of each model's worker."""

    def __init__(self) -> None:
        self._lives: dict[str, _Life] = {}

    def saw(
        self,
        name: str,
        pid: int,
        load: Load,
        peak: Peak,
        remember: Callable[[int], None],
    ) -> None:
        """Take a look at a worker."""
        life = self._lives.get(name)
        if life is not None and life.pid != pid:
            self._told(life)
            life = None
        if life is None:
            self._lives[name] = _Life(pid, load, peak, remember)
            return
        life.peak = peak
        life.steady = life.steady and life.load == load

    def close(self) -> None:
        """Every worker is gone, or about to be."""
        for life in self._lives.values():
            self._told(life)
        self._lives.clear()

    def _told(self, life: _Life) -> None:
        if life.steady:
            life.remember(surplus_of(life.peak.predicted, life.peak.resident))
