"""`rayhost key`: add, list and revoke API keys. A host that runs takes a change in at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayhost.errors import RayhostError

if TYPE_CHECKING:
    from rayhost.front.keys import Key

app = typer.Typer(
    help="Manage the API keys: with any in the file, nobody gets in without one.",
    no_args_is_help=True,
)

File = Annotated[
    Path | None,
    typer.Option("--file", help="Where the keys are; without it, keys.json in the model store."),
]


class Ceiling(StrEnum):
    """The highest priority that a key's requests may have."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"
    BATCH = "batch"


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Whose key it is: letters, digits, '.', '_', '-'.")],
    *,
    ceiling: Annotated[Ceiling, typer.Option(help="Highest priority.")] = Ceiling.NORMAL,
    weight: Annotated[float, typer.Option(help="Share of the box beside other keys.")] = 1.0,
    concurrency: Annotated[int | None, typer.Option(help="Requests at once.")] = None,
    requests: Annotated[int | None, typer.Option(help="Requests a minute.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens a minute, prompts included.")] = None,
    file: File = None,
) -> None:
    """Make a key and print it, this once: only its digest is kept."""
    import msgspec

    from rayhost.front import keys

    with _changing(file) as (path, known):
        if any(key.name == name for key in known):
            raise RayhostError(f"there is a key called {name!r}; revoke it first")
        key, secret = keys.create(name)
        key = msgspec.structs.replace(
            key,
            ceiling=ceiling.value,
            weight=weight,
            concurrency=concurrency,
            requests_per_minute=requests,
            tokens_per_minute=tokens,
        )
        keys.write(path, (*known, key))
    typer.echo(secret)


@app.command("list")
def list_keys(file: File = None) -> None:
    """Show the keys and their limits; never the keys themselves."""
    from rich.console import Console
    from rich.table import Table

    from rayhost.front import keys

    path = file or _default()
    known = keys.read(path)
    if known is None:
        typer.echo(f"no keys: there is no {path}")
        return
    view = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("name", "id", "ceiling", "weight", "at once", "requests/min", "tokens/min"):
        view.add_column(title, no_wrap=True)
    for key in known:
        view.add_row(*_cells(key))
    Console().print(view)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME|ID", help="Which key.")], file: File = None
) -> None:
    """Take a key back. Without any left the file stays, and nobody gets in."""
    from rayhost.front import keys

    with _changing(file) as (path, known):
        left = tuple(key for key in known if name not in (key.name, key.id))
        if len(left) == len(known):
            raise RayhostError(f"there is no key {name!r} in {path}")
        keys.write(path, left)
    typer.echo(f"{name}: revoked")


@contextmanager
def _changing(file: Path | None) -> "Iterator[tuple[Path, tuple[Key, ...]]]":
    from rayhost.front import keys

    path = file or _default()
    with keys.changing(path) as known:
        yield path, known


def _default() -> Path:
    from rayhost.models.store import default_root

    return default_root() / "keys.json"


def _cells(key: "Key") -> Iterator[str]:
    yield from (key.name, key.id, key.ceiling, f"{key.weight:g}")
    for limit in (key.concurrency, key.requests_per_minute, key.tokens_per_minute):
        yield "" if limit is None else f"{limit:,}"
