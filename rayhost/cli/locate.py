"""The model files of a profile: found in the store, used in place, or pulled with a progress bar.

One model that cannot be had does not stop the others: its error is returned, not raised.
"""

from collections.abc import Callable
from pathlib import Path

from rayhost.cli.progress import download_progress
from rayhost.cli.pull import wanted
from rayhost.errors import RayhostError
from rayhost.models.fetch import Phase, Stopped
from rayhost.models.fetch import Progress as Report
from rayhost.models.store import Store, StoredModel, default_root
from rayhost.profile import ModelProfile


def locate(
    model: ModelProfile, base: Path, alive: Callable[[], None] = lambda: None
) -> StoredModel | RayhostError:
    """Return the model with its file, pulled if it must be, or why there is none.

    `base` is the folder that relative `file:` sources start from; `alive` is called while a pull
    goes on, and may raise Stopped, which ends it and is raised.
    """
    try:
        store = Store(default_root())
        # Two sources may suggest one name to be stored under; a profile's names are all different.
        own = model.name.lower() if ":" in (model.source or "") else None
        want = wanted(model.source or model.name, own, store)
        sha256 = model.sha256 or want.sha256
        stored = store.resolve(want.name, want.source, sha256, base)
        if stored is None:
            with download_progress(want.name) as progress:
                stored = store.pull(want.name, want.source, sha256, _watched(progress, alive))
    except Stopped:
        raise
    except RayhostError as error:
        return error
    return stored


def _watched(progress: Report, alive: Callable[[], None]) -> Report:
    def report(done: int, total: int | None, phase: Phase) -> None:
        alive()
        progress(done, total, phase)

    return report


def fetched(target: str, store: Store) -> StoredModel:
    """Return the model that the operator names, pulled if it must be. Raises RayhostError."""
    want = wanted(target, None, store)
    stored = store.resolve(want.name, want.source, want.sha256, Path.cwd())
    if stored is None:
        with download_progress(want.name) as progress:
            stored = store.pull(want.name, want.source, want.sha256, progress)
    return stored
