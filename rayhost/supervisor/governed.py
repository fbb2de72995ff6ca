"""What is governed: each model's demand, and what is needed of who serves it. Types, no effects."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Protocol

import msgspec

from rayhost.errors import RayhostError
from rayhost.front.lane import Lane
from rayhost.governor.costs import Setting
from rayhost.governor.fit import Box, Wish
from rayhost.ipc.messages import Load
from rayhost.profile import Governor


@dataclass(frozen=True, slots=True)
class Demand:
    """What one model wants. `threads` are its most, as CPUs allow; None: whatever was loaded.

    `remember` is told by how many bytes a worker of these settings outgrew what was predicted.
    """

    wish: Wish
    threads: int | None = None
    remember: Callable[[int], None] = lambda _surplus: None


@dataclass(frozen=True, slots=True)
class Budget:
    """What is governed: each model's demand by its name, on this box.

    `base` is the step of `governor.fit` that the models were planned at.
    """

    box: Box
    demands: Mapping[str, Demand] = field(default_factory=dict)
    profile: Governor = field(default_factory=Governor)
    base: int = 0


class Keeping(Protocol):
    """What is needed of a `supervisor.keeper.Keeper`."""

    @property
    def load(self) -> Load | RayhostError:
        """What its worker loads."""
        ...

    @property
    def pid(self) -> int | None:
        """The worker's process, if there is one."""
        ...

    async def resize(self, change: Callable[[Load], Load]) -> None:
        """Go on with other settings. Raises RayhostError when they cannot be had."""
        ...

    async def unload(self) -> None:
        """End the worker."""
        ...

    def wake(self, change: Callable[[Load], Load]) -> None:
        """Start it again."""
        ...


class Part(Protocol):
    """A model that is served."""

    @property
    def lane(self) -> Lane:
        """Its place in the front."""
        ...

    @property
    def keeper(self) -> Keeping:
        """Who keeps its worker."""
        ...


def wish_of(part: Part, budget: Budget) -> Wish:
    """Return what a model wants now.

    That is more once somebody has asked it for structured output, and never a context too small for
    what was accepted.
    """
    lane = part.lane
    wish = budget.demands[lane.name].wish
    return replace(wish, constrained=lane.constrained, least_context=lane.least_context)


def setting_of(load: Load) -> Setting:
    """Return the sizes of what is loaded."""
    names = {one.name for one in fields(Setting)} & set(load.__struct_fields__)
    return Setting(**{name: getattr(load, name) for name in names})


def sized(load: Load, setting: Setting, threads: int) -> Load:
    """Return what is to be loaded with other sizes."""
    sizes = {
        one.name: getattr(setting, one.name)
        for one in fields(setting)
        if one.name in load.__struct_fields__
    }
    return msgspec.structs.replace(load, threads=threads, **sizes)
