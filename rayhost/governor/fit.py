"""Which settings fit into memory, before anything is loaded. Pure.

What a profile leaves to "auto" goes down step by step, all models alike, until the sum fits; what
it says itself stays as it says. What cannot fit is refused with the arithmetic, and with the
nearest settings that would. What fits here is where `decide` begins: both leave the same free.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rayhost.errors import RayhostError
from rayhost.governor.costs import FRONT, MIB, Costs, Setting, costs
from rayhost.models.shape import Shape

CONTEXT, CONCURRENCY, BATCH = 2048, 8, 512  # on a box that has room
LEAST_CONTEXT, LEAST_BATCH = 256, 32
SLACK = 0.01  # of the limit: so much may others grow while we load, and what fitted still fits

KvType = Literal["f16", "q8_0"]


@dataclass(frozen=True, slots=True)
class Wish:
    """One model and what is fixed of its settings; None is left to us."""

    name: str
    shape: Shape
    context: int | None = None
    concurrency: int | None = None
    batch: int | None = None
    kv_type: KvType | None = None
    kv_layout: Literal["split", "unified"] = "split"
    ubatch: int = BATCH
    flash_attention: bool | None = None  # None: what suits the cells
    snapshot_bytes: int = 0
    surplus: int = 0  # what earlier loads took beyond the prediction
    constrained: bool = False  # structured output or tools were asked for
    least_context: int = 0  # what accepted requests need to be answered as promised
    fallback: str | None = None  # the model that answers for it where memory is too short for both


@dataclass(frozen=True, slots=True)
class Box:
    """What there is: `room` bytes, of which `keep` stay free, and a front that takes some.

    `repacks` are the weights that the CPU has copied (`kernels.repacked`); `front` has room for
    all answers that may be kept.
    """

    room: int
    repacks: Mapping[str, int]
    front: int = FRONT
    keep: int = 0

    @property
    def usable(self) -> int:
        """What front and workers may take together."""
        return max(0, self.room - self.keep)


def kept_free(limit: int, headroom: float) -> int:
    """Return what a plan leaves of a limit: the profile's headroom, and some slack."""
    return int((headroom + SLACK) * limit)


@dataclass(frozen=True, slots=True)
class Step:
    """A step down: shares of the usual settings, and the cells' precision."""

    snapshots: float = 1.0
    concurrency: float = 1.0
    batch: float = 1.0
    kv_type: KvType = "f16"
    context: float = 1.0


# In the order of the ladder of degradation: caches, sequences, batches, precision, context. Before
# them what is worth having where memory is plenty: 16 sequences give 1.07 times the tokens of 8.
STEPS: tuple[Step, ...] = (
    Step(concurrency=2.0),
    Step(concurrency=1.5),
    Step(),
    Step(snapshots=0.5),
    *(Step(0.25, share) for share in (1.0, 0.75, 0.5, 0.375, 0.25)),
    *(Step(0.0, 0.25, share) for share in (1.0, 0.5, 0.25)),
    Step(0.0, 0.25, 0.25, "q8_0"),
    Step(0.0, 0.125, 0.25, "q8_0"),
    *(Step(0.0, 0.125, 0.25, "q8_0", 0.5**halves) for halves in range(1, 13)),
    Step(0.0, 0.0, 0.0, "q8_0", 0.0),
)
USUAL = STEPS.index(Step())


@dataclass(frozen=True, slots=True)
class Fitted:
    """What fits: a setting and its costs for each wish, in their order."""

    settings: tuple[Setting, ...]
    costs: tuple[Costs, ...]
    box: Box
    step: int  # place in STEPS

    @property
    def needed(self) -> int:
        """The sum that must stay in memory."""
        return self.box.front + sum(one.needed for one in self.costs)


class DoesNotFit(RayhostError):
    """The profile needs more memory than there is; the text has the sum and what would fit."""


def fit(wishes: Sequence[Wish], box: Box) -> Fitted:
    """Return the first step whose sum fits. Raises DoesNotFit."""
    for number in range(len(STEPS)):
        found = _at(wishes, number, box)
        if found.needed <= box.usable:
            return found
    raise DoesNotFit(_refusal(wishes, box))


def setting(wish: Wish, step: Step) -> Setting:
    """Return a model's setting at a step."""
    concurrency = wish.concurrency or max(1, int(CONCURRENCY * step.concurrency))
    batch = wish.batch or max(_share(BATCH, step.batch, LEAST_BATCH), concurrency)
    if wish.batch and not wish.concurrency:
        concurrency = min(concurrency, wish.batch)  # each has its place in a step
    kv_type = wish.kv_type or step.kv_type
    flash = wish.flash_attention
    if flash is None or kv_type != "f16":  # q8_0 cells need it
        flash = kv_type != "f16"
    return Setting(
        context=wish.context or _share(_top_context(wish.shape), step.context, LEAST_CONTEXT),
        concurrency=concurrency,
        batch=batch,
        ubatch=wish.ubatch,
        kv_type=kv_type,
        kv_layout=wish.kv_layout,
        flash_attention=flash,
        snapshot_bytes=int(wish.snapshot_bytes * step.snapshots),
    )


def fixed(wish: Wish, step: Step) -> Wish:
    """Return the wish with nothing left open: for what it gets at a step."""
    one = setting(wish, step)
    return replace(
        wish,
        context=one.context,
        concurrency=one.concurrency,
        batch=one.batch,
        kv_type=one.kv_type,
        snapshot_bytes=one.snapshot_bytes,
    )


def lowered(wish: Wish, step: Step) -> Setting:
    """Return a model's setting at a step where also what the profile fixes is only what it wants.

    So it is while running: a number that fitted at the start may have to shrink.
    """
    return setting(_loosened(wish, step), step)


def price(wish: Wish, chosen: Setting, box: Box) -> Costs:
    """Return what a model takes with a setting, on a box."""
    return costs(wish.shape, chosen, box.repacks, wish.surplus, constrained=wish.constrained)


def arithmetic(name: str, chosen: Setting, one: Costs) -> str:
    """Say in a line what a model takes, in MiB."""
    parts = (
        (one.mapped, "weights"),
        (one.repacked, "weights copied for the CPU"),
        (
            one.cells + one.states,
            f"cells ({chosen.context:,} tokens x {chosen.concurrency}, {chosen.kv_type})",
        ),
        (one.compute, f"a step of {chosen.batch}"),
        (one.snapshots, "snapshots"),
        (one.grammars, "structured output"),
        (one.vocabulary + one.process + one.program + one.children + one.surplus, "process"),
    )
    terms = " + ".join(f"{_mib(size)} {what}" for size, what in parts if size)
    return f"{name}: {terms} = {_mib(one.needed)} MiB"


def _at(wishes: Sequence[Wish], step: int, box: Box) -> Fitted:
    chosen = tuple(setting(wish, STEPS[step]) for wish in wishes)
    taken = tuple(price(wish, one, box) for wish, one in zip(wishes, chosen, strict=True))
    return Fitted(chosen, taken, box, step)


def _refusal(wishes: Sequence[Wish], box: Box) -> str:
    least = _at(wishes, len(STEPS) - 1, box)
    lines = [
        arithmetic(wish.name, chosen, one)
        for wish, chosen, one in zip(wishes, least.settings, least.costs, strict=True)
    ]
    return (
        f"the profile needs {_mib(least.needed)} MiB of memory, and {_mib(box.usable)} MiB can be "
        f"had, with {_mib(box.keep)} MiB kept free: front {_mib(box.front)} MiB; "
        f"{'; '.join(lines)}. {_nearest(wishes, box)}"
    )


def _nearest(wishes: Sequence[Wish], box: Box) -> str:
    """Say which settings fit when those that the profile fixes are taken as the most wanted."""
    # With the answers that may be kept, then without.
    for tried, also in ((box, ""), (replace(box, front=FRONT), '; "cache": {"bytes": 0}')):
        for number, step in enumerate(STEPS):
            found = _at([_loosened(wish, step) for wish in wishes], number, tried)
            if found.needed <= tried.usable:
                told = (_told(wish, one) for wish, one in zip(wishes, found.settings, strict=True))
                return f"It fits with {'; '.join(told)}{also}"
    smallest = min(wishes, key=lambda wish: wish.shape.weight_bytes)
    if len(wishes) > 1:
        return f"No setting fits: serve fewer models; {smallest.name} is the smallest"
    return "No setting fits: choose a smaller model, or one with smaller weights"


def _loosened(wish: Wish, step: Step) -> Wish:
    concurrency = _share(wish.concurrency or CONCURRENCY, step.concurrency, 1)
    batch = _share(wish.batch or BATCH, step.batch, LEAST_BATCH)
    context = wish.context or _top_context(wish.shape)
    least = max(LEAST_CONTEXT, -(-wish.least_context // LEAST_CONTEXT) * LEAST_CONTEXT)
    return replace(
        wish,
        context=_share(context, step.context, min(context, least)),
        concurrency=concurrency,
        batch=max(batch, concurrency),
        kv_type="q8_0" if wish.kv_type == "q8_0" else step.kv_type,
    )


def _told(wish: Wish, one: Setting) -> str:
    text = (
        f'{wish.name}: "context": {one.context}, "concurrency": {one.concurrency}, '
        f'"batch": {one.batch}, "kv": {{"type": "{one.kv_type}"}}'
    )
    if one.snapshot_bytes < wish.snapshot_bytes:
        text += f', "snapshots": {{"ram_mb": {one.snapshot_bytes // MIB}}}'
    return text


def _top_context(shape: Shape) -> int:
    return min(CONTEXT, shape.train_context or CONTEXT)


def _share(top: int, share: float, least: int) -> int:
    """Return a share of a number, at least `least` but never more than the number."""
    return min(top, max(least, int(top * share)))


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f}"
