"""Who asks for a model that is unloaded: it is loaded where that is fair to others, else refused.

Invariant: nobody is refused by a model that has a worker. Called by `supervisor.governing`.
"""

from collections.abc import Sequence

import structlog

from rayhost.errors import Overloaded
from rayhost.front.relief import RETRY_S
from rayhost.governor.decide import Plan
from rayhost.governor.fit import STEPS, setting
from rayhost.ipc.messages import Load
from rayhost.profile import Rung
from rayhost.supervisor.governed import Budget, Part

_REFUSING: frozenset[Rung] = frozenset(("fallback", "shed"))

_log = structlog.get_logger("rayhost.governor")


class Waking:
    """Remembers who was refused at the tick before."""

    def __init__(self) -> None:
        self._refused: set[str] = set()

    @property
    def refuses(self) -> bool:
        """True while somebody is refused: that is to end soon."""
        return bool(self._refused)

    def wanted(self, parts: Sequence[Part]) -> list[Part]:
        """Return the unloaded models that somebody waits for.

        Who was refused may ask again from now on.
        """
        refused, self._refused = self._refused, set()
        asked = []
        for part in parts:
            if part.lane.name in refused:
                part.lane.turn_away(None)
            elif part.lane.state == "unloaded" and part.lane.idle_ns == 0:
                asked.append(part)
        return asked

    def refuse(self, parts: Sequence[Part]) -> None:
        """Turn away who asks for these models, until the next tick."""
        for part in parts:
            name = part.lane.name
            _log.warning("no room to load", model=name)
            self._refused.add(name)
            part.lane.turn_away(
                Overloaded(
                    f"model {name!r} was unloaded, and there is no memory to load it now",
                    code="no_memory",
                    retry_after=RETRY_S,
                )
            )


def is_fair(
    plan: Plan, level: int, budget: Budget, wanted: Sequence[Part], loaded: Sequence[Part]
) -> bool:
    """Tell whether a plan has room for the wanted models without asking too much of the loaded.

    `level` is that of now. A loaded model has to bear what it bore at the start, or bears now; a
    model that another answers for stays away.
    """
    if not plan.fits or any(part.lane.name in plan.instead for part in wanted):
        return False
    if loaded and plan.level > level and not _REFUSING.isdisjoint(plan.rungs):
        return False
    start = STEPS[budget.base]
    for name, load in ((part.lane.name, part.keeper.load) for part in loaded):
        if name in plan.settings and isinstance(load, Load):
            borne = min(setting(budget.demands[name].wish, start).context, load.context)
            if plan.settings[name].context < borne:
                return False
    return True
