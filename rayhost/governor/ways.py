"""What the models would take at each level of the ladder, and as wide as each base. Pure.

Invariant: no level takes more than the one before, and level 0 of a base is what `fit` gives there.
"""

from dataclasses import dataclass
from functools import cached_property

from rayhost.governor.costs import FRONT_PROGRAM, Costs, Setting
from rayhost.governor.fit import STEPS, Box, Wish, fixed, lowered, price
from rayhost.governor.ladder import Level
from rayhost.profile import Rung

# What nobody must have to bear so that somebody has structured output.
_HARSH: tuple[Rung, ...] = ("context", "fallback", "shed")


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is loaded, unless it is `resting`: then another answers for it.

    `idle_s` is how long nobody has asked for it; 0 while it works. `held` is what its worker holds
    now, without file pages.
    """

    wish: Wish
    idle_s: float = 0.0
    resting: bool = False
    held: int = 0


@dataclass(frozen=True)
class Ways:
    """What the models take at each level, as wide as `base` makes them.

    `front_held` is what the front holds now, without file pages. What it or a worker holds beyond
    its prediction for level 0 stays whatever is given up, and counts at every level.
    """

    models: tuple[Model, ...]
    ladder: tuple[Level, ...]
    box: Box
    results: int
    base: int
    front_held: int = 0

    def settings(self, level: int) -> dict[str, Setting]:
        """Return the sizes at a level of each model that has a process there.

        One with a fallback keeps its own until it has ended what it has.
        """
        step = self.ladder[level].step
        return {
            model.wish.name: lowered(self._wide(model), step)
            for model in self.models
            if not (self._leaves(model, level) and (model.resting or model.idle_s > 0))
        }

    def costs(self, level: int) -> list[Costs]:
        """Return what each model takes at a level, once those that leave have left."""
        return [self._cost(model, level) for model in self.models if not self._leaves(model, level)]

    def front(self, level: int) -> int:
        """Return what the front takes at a level, where fewer answers may be kept."""
        return self.box.front - self.results + self.kept(level)

    def kept(self, level: int) -> int:
        """Return the bytes of answers that may be kept at a level."""
        return int(self.results * self.ladder[level].step.snapshots)

    def needed(self, level: int) -> int:
        """Return the sum at a level."""
        return self.front(level) + self._beyond + sum(one.needed for one in self.costs(level))

    def required(self, allowed: int) -> int:
        """Return the first level whose sum fits, else the last."""
        fitting = (at for at in range(len(self.ladder)) if self.needed(at) <= allowed)
        return next(fitting, len(self.ladder) - 1)

    def less(self, level: int) -> int:
        """Return the first level that takes less than this one; where there is none, this one."""
        now = self.needed(level)
        return next((at for at in range(level, len(self.ladder)) if self.needed(at) < now), level)

    def bears(self, allowed: int) -> bool:
        """Tell whether the sum fits without anything harsh."""
        return self.needed(self.before(*_HARSH)) <= allowed

    def before(self, *rungs: Rung) -> int:
        """Return the level before the first of some rungs; without them, the last."""
        found = (
            at - 1 for at, level in enumerate(self.ladder) if any(r in level.rungs for r in rungs)
        )
        return next(found, len(self.ladder) - 1)

    @cached_property
    def _beyond(self) -> int:
        # Each process by itself: what one has outgrown is not hidden by what another has not
        # touched yet. Beyond the sizes of now it may be what the allocator keeps, and uses again.
        front = max(0, self.front_held - (self.front(0) - FRONT_PROGRAM))
        return front + sum(
            max(0, model.held - self._cost(model, 0).anonymous) for model in self.models
        )

    def _leaves(self, model: Model, level: int) -> bool:
        return self.ladder[level].fallback and model.wish.fallback is not None

    def _cost(self, model: Model, level: int) -> Costs:
        wish = self._wide(model)
        return price(wish, lowered(wish, self.ladder[level].step), self.box)

    def _wide(self, model: Model) -> Wish:
        return fixed(model.wish, STEPS[self.base])
