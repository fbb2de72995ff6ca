"""What the deaths of workers say against one request: whether it is tried alone, or given up. Pure.

Invariant: weight grows only by a death before the request got on well, and falls to nothing when
it does. A request resumes deterministically, so one that kills its worker does so again at once. It
is given up only for a death beside requests that had all been proved harmless.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class Death(IntEnum):
    """How a worker ended; the value is how much that says against the requests it had."""

    REPLACED = 0  # on purpose
    KILLED = 1  # SIGKILL from outside: an operator, or the kernel when memory ran out
    HUNG = 3  # stopped from outside, a stalled disk, or a computation without end
    CRASHED = 6  # of what it did


SUSPECT = 3  # from this weight on a request is tried while no other suspect runs
GUILTY = 12  # and here it is given up: two crashes, four hangs, a dozen kills in a row
_TRIAL = 4  # tokens from one worker that prove a request harmless, at first


@dataclass(slots=True)
class Record:
    """Of one request. `here` is the tokens it got from the worker that has it now."""

    weight: int = 0
    crashes: int = 0  # in its whole life
    here: int = 0
    proved: bool = False  # harmless, by a worker that it had

    @property
    def suspect(self) -> bool:
        """True while the request may be what its last workers died of."""
        return self.weight >= SUSPECT

    def begin(self) -> None:
        """A worker got the request."""
        self.here = 0

    def got(self, tokens: int) -> None:
        """The worker produced tokens."""
        self.here += tokens
        if self.got_on:
            self.weight, self.proved = 0, True

    def lost(self, death: Death) -> None:
        """The worker died."""
        if not self.got_on:
            self.weight += death
        if death is Death.CRASHED:
            self.crashes += 1

    def convicted_by(self, death: Death) -> bool:
        """Tell whether this death is the one too many."""
        return death > 0 and not self.got_on and self.weight + death >= GUILTY

    @property
    def got_on(self) -> bool:
        """True once the worker that has the request has proved it harmless."""
        # Doubled by each crash: else one that gets a little from each worker goes on for ever.
        return self.here >= _TRIAL << min(self.crashes, 20)


def culprit(computed: Sequence[Record], death: Death) -> int | None:
    """Return the place of the one that a worker now died of once too often; None: nobody knows.

    `computed` are those that it had begun.
    """
    tried = [at for at, one in enumerate(computed) if one.weight or not one.proved]
    return tried[0] if len(tried) == 1 and computed[tried[0]].convicted_by(death) else None
