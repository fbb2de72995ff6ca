"""`rayhost bench`: what this machine can do, and the models on it; stored as the calibration."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from rayhost.errors import RayhostError


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
    from rayhost.cli.locate import fetched
    from rayhost.cli.working import working
    from rayhost.models.store import Store, default_root

    if html is not None and not html.absolute().parent.is_dir():
        raise RayhostError(f"--html {html}: there is no folder {html.absolute().parent}")
    store = Store(default_root())
    chosen = targets or list(store.names()) or ["smollm2-135m"]
    models = [fetched(target, store) for target in chosen]
    host = cpu.host()
    with working("rayhost bench") as progress:
        found = bench.take(
            host,
            [calibration.subject(model) for model in models],
            sweep.QUICK if quick else sweep.FULL,
            quick=quick,
            report=progress,
        )
    calibration.Calibrations(store.root, host).save_baseline(found)
    if html is not None:
        html.write_text(pages.page(found), encoding="utf-8")
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        Console().print(report.render(found), highlight=False)
