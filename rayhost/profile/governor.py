"""The section of a profile about memory: what stays free, and what is given up in which order."""

from typing import Annotated, Literal

from msgspec import Meta

from rayhost.profile.fields import Section

Rung = Literal[
    "caches", "sequences", "batch", "max_tokens", "precision", "context", "fallback", "shed"
]
LADDER: tuple[Rung, ...] = (
    "caches",
    "sequences",
    "batch",
    "max_tokens",
    "precision",
    "context",
    "fallback",
    "shed",
)


class Governor(Section, frozen=True):
    """What is done when memory gets short while requests run, and undone when it is back."""

    enabled: Annotated[
        bool, Meta(description="Resize while running; without it, sizes stay as at the start.")
    ] = True
    headroom: Annotated[
        float, Meta(ge=0, le=0.5, description="Share of the memory limit that is kept free.")
    ] = 0.06
    ladder: Annotated[
        tuple[Rung, ...],
        Meta(
            max_length=8,
            description="What is given up, in this order: snapshots and answers kept, sequences, "
            "step size, length of answers, precision of cells, context, models that have a "
            "fallback, requests of low priority. "
            "What is left out is never given up.",
        ),
    ] = LADDER
    dwell_s: Annotated[
        float,
        Meta(ge=0, le=3600, description="Seconds a size is kept before anything grows again."),
    ] = 10.0
    calm_s: Annotated[
        float,
        Meta(ge=0, le=3600, description="Seconds without pressure before anything grows again."),
    ] = 15.0
    idle_s: Annotated[
        float,
        Meta(
            ge=1,
            le=31_536_000,
            description="Seconds without a request after which a model may be unloaded for others.",
        ),
    ] = 300.0
