"""`rayhost models`: what is in the store and what could be. The entry point registers `models`."""

from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rayhost.errors import RayhostError
from rayhost.models import catalog
from rayhost.models.gguf import read_info
from rayhost.models.store import Store, default_root


class Row(msgspec.Struct, frozen=True):
    """One model. Sizes are in bytes, the context in tokens; None is for what is not known yet."""

    name: str
    state: str  # "stored", "not pulled", or what is wrong with it
    size_bytes: int | None = None
    quantization: str | None = None
    context: int | None = None
    parameters: int | None = None
    chat: bool | None = None
    license: str | None = None
    source: str | None = None
    path: str | None = None


def rows(store: Store) -> list[Row]:
    """Return the stored models and then the catalog's that are not stored, each by name."""
    stored = store.names()
    missing = (name for name in sorted(catalog.BY_NAME) if name not in stored)
    return [*(_stored(store, name) for name in stored), *(_known(name) for name in missing)]


def _stored(store: Store, name: str) -> Row:
    # One damaged model must not hide the others, so what is wrong with it becomes its state.
    try:
        model = store.find(name)
        if model is None:
            return Row(name, "removed just now")
        info = read_info(model.path)
    except RayhostError as error:
        return Row(name, str(error).removeprefix(f"{name}: "))
    known = {entry.sha256: entry.license for entry in catalog.ENTRIES}
    return Row(
        name=name,
        state="stored",
        size_bytes=model.size_bytes,
        quantization=info.quantization,
        context=info.context_length,
        parameters=info.parameters,
        chat=info.chat,
        license=known.get(model.sha256 or ""),
        source=model.source,
        path=str(model.path),
    )


def _known(name: str) -> Row:
    entry = catalog.BY_NAME[name]
    return Row(
        name=name,
        state="not pulled",
        size_bytes=entry.size_bytes,
        license=entry.license,
        source=entry.source,
    )


def table(models: list[Row]) -> Table:
    """Return the table a person reads. Long sources and paths wrap instead of being cut."""
    view = Table(box=None, pad_edge=False, header_style="bold")
    view.add_column("name", no_wrap=True)
    view.add_column("size", justify="right", no_wrap=True)
    view.add_column("quantization", no_wrap=True)
    view.add_column("context", justify="right", no_wrap=True)
    view.add_column("source", overflow="fold")
    view.add_column("path", overflow="fold")
    for row in models:
        cells = (
            row.name,
            f"{row.size_bytes / 1e6:,.1f} MB" if row.size_bytes is not None else "",
            row.quantization or "",
            f"{row.context:,}" if row.context is not None else "",
            row.source or "",
            row.path or row.state,
        )
        view.add_row(*(Text(cell) for cell in cells))  # Text: a "[" in a path is no markup
    return view


def models(
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for programs")] = False,
) -> None:
    """List the models in the store and those that `rayhost pull` knows by name."""
    found = rows(Store(default_root()))
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        Console().print(table(found))
