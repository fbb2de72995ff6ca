"""The model files of a profile: found in the store, used in place, or pulled with a progress bar.

One model that cannot be had does not stop the others: its error is returned, not raised.
"""

from pathlib import Path

from rayhost.cli.progress import download_progress
from rayhost.cli.pull import wanted
from rayhost.errors import RayhostError
from rayhost.models.store import Store, StoredModel, default_root
from rayhost.profile import ModelProfile


def locate(model: ModelProfile, base: Path) -> StoredModel | RayhostError:
    """Return the model with its file, pulled if it must be, or why there is none.

    `base` is the folder that relative `file:` sources start from.
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
                stored = store.pull(want.name, want.source, sha256, progress)
    except RayhostError as error:
        return error
    return stored


def fetched(target: str, store: Store) -> StoredModel:
    """Return the model that the operator names, pulled if it must be. Raises RayhostError."""
    want = wanted(target, None, store)
    stored = store.resolve(want.name, want.source, want.sha256, Path.cwd())
    if stored is None:
        with download_progress(want.name) as progress:
            stored = store.pull(want.name, want.source, want.sha256, progress)
    return stored
