"""What a profile fixes of a model's sizes, and what it leaves to the memory that there is. Pure."""

from collections.abc import Mapping

from rayhost.baseline.calibration import Settings
from rayhost.governor.costs import FRONT
from rayhost.governor.fit import Box, Wish, kept_free
from rayhost.models.shape import Shape
from rayhost.profile import ModelProfile, Profile


def box_for(profile: Profile, room: int, limit: int, repacks: Mapping[str, int]) -> Box:
    """Return what a profile's models have of `room` bytes below a limit."""
    return Box(
        room=room,
        repacks=repacks,
        front=FRONT + profile.cache.bytes,
        keep=kept_free(limit, profile.governor.headroom),
    )


def wish_for(
    model: ModelProfile, settings: Settings, shape: Shape, *, free_kv: bool, surplus: int = 0
) -> Wish:
    """Return the wish of a model that is to run with `settings`.

    The precision of cells is free only where neither the profile nor tuning (`free_kv` false) nor
    a promise of reproducible bytes says what it is to be.
    """
    free = free_kv and model.kv.type == "auto" and not model.reproducible
    return Wish(
        name=model.name,
        shape=shape,
        context=None if model.context == "auto" else model.context,
        concurrency=None if model.concurrency == "auto" else model.concurrency,
        batch=None if model.batch == "auto" else model.batch,
        kv_type=None if free else settings.kv_type,
        kv_layout=settings.kv_layout,
        ubatch=settings.ubatch,
        flash_attention=settings.flash_attention,
        snapshot_bytes=model.snapshots.ram_mb << 20,
        surplus=surplus,
        fallback=model.fallback,
    )
