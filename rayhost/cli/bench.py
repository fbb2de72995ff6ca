"""`rayhost bench`: what this machine can do, and the models on it; stored as the calibration."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console

from rayhost.errors import RayhostError

if TYPE_CHECKING:
    from rayhost.models.store import Store, StoredModel


def bench(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME|SOURCE]...", help="Models; without any, those in the store."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="About 20 s for a model instead of 2 minutes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write one self-contained page with charts to this file.")
    ] = None,
) -> None:
    """Measure this machine: memory, and each model's prefill, generation and memory use."""
    from rayhost.baseline import bench, calibration, cpu, report, sweep
    from rayhost.baseline import html as pages
    from rayhost.cli.working import working
    from rayhost.models.store import Store, default_root

    if html is not None:
        _check_page(html)
    store = Store(default_root())
    models = _chosen(targets or [], store)
    host = cpu.host()
    with working("rayhost bench") as progress:
        found = bench.take(
            host,
            [calibration.subject(model) for model in models],
            sweep.QUICK if quick else sweep.FULL,
            quick=quick,
            report=progress,
        )
    # Shown first: a full disk must not take two minutes of measuring with it.
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        Console().print(report.render(found), highlight=False)
    try:
        if told := report.noise(found.quiet):
            typer.echo(f"not kept as this machine's calibration: {told}", err=True)
        else:
            calibration.Calibrations(store.root, host).save_baseline(found)
        if html is not None:
            html.write_text(pages.page(found), encoding="utf-8")
    except OSError as error:
        raise RayhostError(f"the baseline could not be kept: {error}") from error


def _check_page(html: Path) -> None:
    """Refuse, before anything is measured, a page that could not be written afterwards."""
    folder = html.absolute().parent
    if not folder.is_dir():
        raise RayhostError(f"--html {html}: there is no folder {folder}")
    if html.is_dir() or not os.access(html if html.exists() else folder, os.W_OK):
        raise RayhostError(f"--html {html}: no page can be written there")


def _chosen(targets: list[str], store: "Store") -> "list[StoredModel]":
    """Return the models to measure; one that is named must be there, others may be damaged."""
    from rayhost.cli.locate import fetched

    if targets or not store.names():
        # Twice the same would be measured twice and kept once.
        return [fetched(target, store) for target in dict.fromkeys(targets or ["smollm2-135m"])]
    models = []
    for name in store.names():
        try:
            models.append(fetched(name, store))
        except RayhostError as error:
            typer.echo(f"rayhost: left out: {error}", err=True)
    if not models:
        raise RayhostError("no model of the store can be measured")
    return models
