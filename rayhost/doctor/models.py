"""Whether the profile's models are there, are what they were, and have room on the disk."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rayhost.doctor.finding import Finding
from rayhost.errors import RayhostError
from rayhost.models import catalog
from rayhost.models.durable import sha256_of
from rayhost.models.store import MARGIN, Store
from rayhost.profile import ModelProfile


class Model(NamedTuple):
    """A model of the profile. `problem` says why its file cannot be used."""

    name: str
    problem: str = ""
    to_pull: int = 0  # bytes that a pull will bring, 0: it is there, or nobody knows
    snapshots: int = 0  # bytes that they may still grow


class Wanted(NamedTuple):
    """What a model's entry means: the name in the store, where it comes from, its digest."""

    name: str
    source: str
    sha256: str | None


class Disk(NamedTuple):
    """The disk of the store, in bytes."""

    folder: Path
    free: int


Meaning = Callable[[ModelProfile], Wanted]  # raises RayhostError for what means nothing


def read(
    models: Sequence[ModelProfile], base: Path, store: Store, meaning: Meaning, *, deep: bool
) -> list[Model]:
    """Return how each model's file is; `deep` reads all of it. `base` is the profile's folder."""
    return [_model(model, base, store, meaning, deep) for model in models]


def check(models: Sequence[Model], disk: Disk) -> Iterator[Finding]:
    """Yield what is wrong with the models' files, and with the room for them."""
    for model in models:
        if model.problem:
            yield Finding(
                "model",
                "error",
                f"{model.name}: {model.problem}",
                "it cannot be loaded, or is not what was chosen",
                f"rayhost pull {model.name}",
            )
    pulls = sum(model.to_pull for model in models)
    snapshots = sum(model.snapshots for model in models)
    wanted_bytes = pulls + snapshots + MARGIN
    if disk.free < wanted_bytes:
        yield Finding(
            "disk",
            "error" if disk.free < pulls + MARGIN else "warning",
            f"{disk.free / 1e6:,.0f} MB are free at {disk.folder}; models to pull take "
            f"{pulls / 1e6:,.0f}, snapshots up to {snapshots / 1e6:,.0f}, and 67 stay free",
            "a pull is refused, and snapshots are not written",
            f"rm -r {disk.folder}/snapshots (they are computed again), or rayhost models, to see "
            "what is not needed",
        )


def _model(model: ModelProfile, base: Path, store: Store, meaning: Meaning, deep: bool) -> Model:
    snapshots = _room_for_snapshots(model, store)
    try:
        want = meaning(model)
        digest = model.sha256 or want.sha256
        # A file used in place is hashed by `resolve` where a digest is given.
        in_place = (model.source or "").startswith("file:")
        found = store.resolve(want.name, want.source, None if in_place else digest, base)
        if found is None:
            size = next((one.size_bytes for one in catalog.ENTRIES if one.sha256 == digest), 0)
            return Model(model.name, to_pull=size, snapshots=snapshots)
        expected = digest or found.sha256
        if deep and expected and (now := sha256_of(found.path, lambda _: None)) != expected:
            problem = f"{found.path} has sha256 {now}, and not {expected}"
            return Model(model.name, problem, snapshots=snapshots)
    except (RayhostError, OSError) as error:
        return Model(model.name, str(error), snapshots=snapshots)
    return Model(model.name, snapshots=snapshots)


def _room_for_snapshots(model: ModelProfile, store: Store) -> int:
    folder = store.root / "snapshots" / model.name
    held = sum(one.stat().st_size for one in folder.glob("*")) if folder.is_dir() else 0
    return max(0, (model.snapshots.disk_mb << 20) - held)
