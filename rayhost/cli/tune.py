"""`rayhost tune`: find the fastest file and settings for this machine, and have them served."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from rayhost.errors import RayhostError

if TYPE_CHECKING:
    from rayhost.baseline.calibration import Calibrations
    from rayhost.baseline.calibration import Goal as GoalName
    from rayhost.models.store import Store, StoredModel
    from rayhost.tuning.tune import Outcome


class Goal(StrEnum):
    """What tuning makes as good as it can."""

    THROUGHPUT = "throughput"
    LATENCY = "latency"
    MEMORY = "memory"


def tune(
    target: Annotated[str, typer.Argument(metavar="MODEL", help="A known name or a source.")],
    *,
    goal: Annotated[Goal, typer.Option("--for", help="What to tune for.")] = Goal.THROUGHPUT,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|SOURCE", help="A file of the model with more precision, to quantize."
        ),
    ] = None,
    sequences: Annotated[int, typer.Option(min=1, max=64, help="Requests decoded together.")] = 8,
    depth: Annotated[
        int, typer.Option(min=0, max=65536, help="Tokens of history that a request has.")
    ] = 256,
    max_divergence: Annotated[
        float, typer.Option(min=0, help="Most KL divergence from the source, in nats.")
    ] = 0.10,
    min_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Least share of equal most likely tokens.")
    ] = 0.80,
    max_perplexity: Annotated[
        float, typer.Option(min=0, help="Most perplexity, as a ratio to the source's.")
    ] = 1.10,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure and show; serve what is served now.")
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Forget what was chosen and remove its file.")
    ] = False,
) -> None:
    """Search weights and settings for a goal, within limits of quality; `serve` then uses them."""
    from rayhost.baseline import calibration, cpu
    from rayhost.baseline.quiet import Watch
    from rayhost.baseline.report import noise
    from rayhost.cli.locate import fetched
    from rayhost.cli.pull import wanted
    from rayhost.cli.working import working
    from rayhost.models.gguf import read_info
    from rayhost.models.store import Store, default_root
    from rayhost.tuning import report, search
    from rayhost.tuning.quality import Limits
    from rayhost.tuning.trials import Trials
    from rayhost.tuning.tune import Search, warning

    store = Store(default_root())
    host = cpu.host()
    records = calibration.Calibrations(store.root, host)
    if undo:
        name = wanted(target, None, store).name
        there = records.forget_tuned(name)
        store.remove_variants(name)
        typer.echo(f"{name}: {'back to the file as it is' if there else 'was not tuned'}")
        return
    model = fetched(target, store)
    better = fetched(source, store) if source else model
    bench = Trials(host, sequences, depth)
    bench.check(read_info(model.path))
    if told := warning(read_info(better.path).quantization):
        typer.echo(f"rayhost: warning: {told}", err=True)
    watch = Watch()
    with store.workplace(model.name, 4 * better.size_bytes) as folder:
        with working("rayhost tune") as progress:
            found = Search(
                bench=bench,
                goal=goal.value,
                limits=Limits(max_divergence, min_agreement, max_perplexity),
                served=model.path,
                reference=better.path,
                folder=folder,
                weights=search.WEIGHTS,
                report=progress,
            ).run(search.axes(host.cores, host.cpus))
        Console().print(report.render(found, goal.value, sequences, depth), highlight=False)
        if told := noise(watch.read()):
            typer.echo(told)
            if found.gain is None:  # nothing that `serve` should take as this machine's answer
                typer.echo("nothing was changed")
                return
        _keep(
            found,
            model,
            store,
            records,
            goal=goal.value,
            sequences=sequences,
            applied=not dry_run,
        )
    if dry_run:
        typer.echo("nothing was changed")
    elif found.gain is None:
        typer.echo(f"{model.name}: `rayhost serve` uses the file as it is")
    else:
        typer.echo(f"{model.name}: `rayhost serve` uses this from its next start on")


def _keep(
    found: "Outcome",
    model: "StoredModel",
    store: "Store",
    records: "Calibrations",
    *,
    goal: "GoalName",
    sequences: int,
    applied: bool,
) -> None:
    """Put the chosen file into the store and the choice on record. Raises RayhostError."""
    from rayhost.baseline.calibration import Tuned, identity

    try:
        kept = found.path if applied else None
        variant = store.keep_variant(model.name, kept) if kept else None
        records.save_tuned(
            model.name,
            Tuned(
                identity=identity(model),
                goal=goal,
                sequences=sequences,
                gain=found.gain.median if found.gain else 1.0,
                settings=found.settings,
                variant=variant,
                label=found.weights.label if found.weights else "as it is",
                taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
                applied=applied,
            ),
        )
        if applied and variant is None:
            store.remove_variants(model.name)  # an earlier choice's, which nothing names now
    except OSError as error:
        raise RayhostError(f"{model.name}: the choice could not be kept: {error}") from error
