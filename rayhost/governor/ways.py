"""What the models would take at each level of the ladder, and as wide as each base. Pure.

Invariant: no level takes more than the one before, and level 0 of a base is what `fit` gives there.
Only `decide` asks.
"""

from dataclasses import dataclass

from rayhost.governor.costs import FRONT_PROGRAM, Costs, Setting
from rayhost.governor.fit import STEPS, Box, Wish, fixed, lowered, price
from rayhost.governor.ladder import Level
from rayhost.profile import Rung


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is loaded. `idle_s` is how long nobody has asked for it; 0 while it works."""

    wish: Wish
    idle_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Ways:
    """What the models take at each level, as wide as `base` makes them.

    `beyond` is what is held now, and not said by any prediction.
    """

    models: tuple[Model, ...]
    ladder: tuple[Level, ...]
    box: Box
    results: int
    base: int
    beyond: int = 0

    def staying(self, level: int) -> list[Wish]:
        """Return the wishes of the models that have a process at a level."""
        return [
            fixed(model.wish, STEPS[self.base])
            for model in self.models
            if not (self.ladder[level].fallback and model.wish.fallback and model.idle_s > 0)
        ]

    def settings(self, level: int) -> dict[str, Setting]:
        """Return each one's sizes at a level."""
        step = self.ladder[level].step
        return {wish.name: lowered(wish, step) for wish in self.staying(level)}

    def costs(self, level: int) -> list[Costs]:
        """Return what each one takes at a level."""
        step = self.ladder[level].step
        return [price(wish, lowered(wish, step), self.box) for wish in self.staying(level)]

    def front(self, level: int) -> int:
        """Return what the front takes at a level, where fewer answers may be kept."""
        return self.box.front - self.results + self.kept(level)

    def kept(self, level: int) -> int:
        """Return the bytes of answers that may be kept at a level."""
        return int(self.results * self.ladder[level].step.snapshots)

    def needed(self, level: int) -> int:
        """Return the sum at a level."""
        return self.front(level) + self.beyond + sum(one.needed for one in self.costs(level))

    def anonymous(self, level: int) -> int:
        """Return how much of the sum are no file pages."""
        workers = sum(one.anonymous for one in self.costs(level))
        return self.front(level) - FRONT_PROGRAM + workers

    def required(self, allowed: int) -> int:
        """Return the first level whose sum fits, else the last."""
        fitting = (at for at in range(len(self.ladder)) if self.needed(at) <= allowed)
        return next(fitting, len(self.ladder) - 1)

    def before(self, *rungs: Rung) -> int:
        """Return the level before the first of some rungs; without them, the last."""
        found = (
            at - 1 for at, level in enumerate(self.ladder) if any(r in level.rungs for r in rungs)
        )
        return next(found, len(self.ladder) - 1)
