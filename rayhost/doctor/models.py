"""Whether the profile's models are there, are what they were, and have room on the disk."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rayhost.doctor.finding import Finding
from rayhost.errors import RayhostError
from rayhost.models import catalog
from rayhost.models.durable import sha256_of
from rayhost.models.sources import FileSource, parse
from rayhost.models.store import MARGIN, Store
from rayhost.profile import ModelProfile


class Model(NamedTuple):
    """A model of the profile. `problem` says why its file cannot be used."""

    name: str
    problem: str = ""
    fix: str = ""  # of the problem, as in a finding
    advice: str = ""
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


@dataclass(frozen=True, slots=True)
class Place:
    """Where models are looked for, and how one is pulled there."""

    base: Path  # the profile's folder
    store: Store
    pull: str  # the command, without what is to be pulled


def read(
    models: Sequence[ModelProfile], place: Place, meaning: Meaning, *, deep: bool
) -> list[Model]:
    """Return how each model's file is; `deep` reads all of it."""
    return [_model(model, place, meaning, deep) for model in models]


def check(models: Sequence[Model], disk: Disk) -> Iterator[Finding]:
    """Yield what is wrong with the models' files, and with the room for them."""
    for model in models:
        if model.problem:
            yield Finding(
                "model",
                "error",
                f"{model.name}: {model.problem}",
                "it cannot be loaded, or is not what was chosen",
                model.fix,
                model.advice,
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
            f"rm -r {shlex.quote(str(disk.folder / 'snapshots'))}",
            "they are computed again; `rayhost models` shows what else is there",
        )


def files(
    models: Sequence[ModelProfile], place: Place, meaning: Meaning
) -> Iterator[tuple[ModelProfile, Path]]:
    """Yield the models whose files are known, hashed or not."""
    for model in models:
        try:
            want = meaning(model)
            source = parse(want.source)
            if isinstance(source, FileSource):
                yield model, source.at(place.base)
            elif found := place.store.resolve(want.name, want.source, None, place.base):
                yield model, found.path
        except RayhostError:  # told by `read`
            continue


def _mending(model: ModelProfile, want: Wanted | None, place: Place) -> tuple[str, str]:
    """Return the command and the advice for a model whose file cannot be used."""
    reload = "rayhost reload"
    if want is None:
        return "rayhost models", f"name one of these or a source in the profile, then: {reload}"
    source = parse(want.source)
    if isinstance(source, FileSource):
        path = shlex.quote(str(source.at(place.base)))
        return f"ls -l {path}", f"put the right file there, or change the profile, then: {reload}"
    # By its source, as the profile may name another than what is in the store by that name.
    named = want.name if model.source is None else f"{want.source} --name {want.name}"
    return f"{place.pull} {named} && {reload}", ""


def _model(model: ModelProfile, place: Place, meaning: Meaning, deep: bool) -> Model:
    base, store = place.base, place.store
    snapshots = _room_for_snapshots(model, store)
    want = None
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
            raise RayhostError(f"{found.path} has sha256 {now}, and not {expected}")
    except (RayhostError, OSError) as error:
        mending = _mending(model, want, place)
        return Model(model.name, str(error), *mending, snapshots=snapshots)
    return Model(model.name, snapshots=snapshots)


def _room_for_snapshots(model: ModelProfile, store: Store) -> int:
    folder = store.root / "snapshots" / model.name
    held = sum(one.stat().st_size for one in folder.glob("*")) if folder.is_dir() else 0
    return max(0, (model.snapshots.disk_mb << 20) - held)
