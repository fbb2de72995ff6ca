"""`rayhost plan`: what fits into this machine's memory, or into one that is described.

Nothing is downloaded or loaded. The entry point registers `plan`.
"""

from typing import Annotated

import msgspec
import typer

from rayhost.baseline.prediction import Speed
from rayhost.cli.forecast import Forecaster, Plan
from rayhost.errors import RayhostError
from rayhost.governor.costs import MIB
from rayhost.sizes import parse_size

_CORES = (0.1, 4096)


def plan(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROFILE|NAME|SOURCE...",
            help="a profile, a known name, or file:PATH.gguf; without any: smollm2-135m",
        ),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Of another machine, such as 1GiB or 768MiB.")
    ] = None,
    cores: Annotated[float | None, typer.Option(help="Of another machine.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Say what fits into memory, at which context and concurrency, without loading anything."""
    least, most = _CORES
    if cores is not None and not least <= cores <= most:  # typer's bounds let nan pass
        raise RayhostError(f"--cores {cores:g}: expected a number from {least} to {most}")
    forecaster = Forecaster(None if memory is None else parse_size(memory), cores)
    found, failed = list[Plan](), list[str]()
    for target in targets or ["smollm2-135m"]:
        try:
            found.append(forecaster.plan(target))
        except RayhostError as error:  # which must not hide what is known of the others
            failed.append(str(error))
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    elif found:
        typer.echo("\n\n".join(text(one) for one in found))
    if failed:
        raise RayhostError("\n".join(failed))
    if any(one.refusal for one in found):
        raise typer.Exit(1)


def text(plan: Plan) -> str:
    """Return the plan for people."""
    lines = [
        f"{plan.profile}: {_mib(plan.limit)} MiB of memory, {_mib(plan.room)} for rayhost, "
        f"{plan.cores:g} cores{f', as the running host at {plan.host} has it' if plan.host else ''}"
    ]
    if plan.refusal:
        return "\n".join((*lines, f"  does not fit: {plan.refusal}"))
    for row in plan.models:
        lines.append(
            f"  {row.name}{'' if row.pulled else ' (not pulled)'}: context {row.context:,}, "
            f"concurrency {row.concurrency}, batch {row.batch}, kv {row.kv_type}"
        )
        parts = {
            "weights": row.weights,
            "weights copied for the CPU": row.weights_copied,
            "KV cells": row.kv,
            "a step's buffers": row.compute,
            "snapshots": row.snapshots,
            "process and vocabulary": row.process,
            "renderer of chat templates": row.children,
        }
        lines += [f"    {name:28}{_mib(size):>8} MiB" for name, size in parts.items() if size]
        if row.constrained:
            more = f"{_mib(row.constrained):>3} MiB more"
            told = ", which do not fit: they are refused" if row.constrained_refused else ""
            lines.append(f"    once JSON or tools are asked for {more}{told}")
        lines.append(_speed(row.tokens_s))
    share = plan.needed / plan.room if plan.room else 0.0
    lines.append(f"  {'front':30}{_mib(plan.front):>8} MiB")
    lines.append(f"  {'together':30}{_mib(plan.needed):>8} MiB, {share:.0%} of the room")
    return "\n".join(lines)


def _speed(speed: Speed | None) -> str:
    """Return the line of a model's tokens a second, and where they come from."""
    if speed is None:
        return f"    {'tokens/s':28} not known: `rayhost bench` gives a figure"
    rates = {"prompt": speed.prefill, "generated alone": speed.one}
    if speed.sequences > 1:
        rates[f"by {speed.sequences}"] = speed.all
    told = ", ".join(f"{rate:,.0f} {of}" for of, rate in rates.items() if rate is not None)
    if speed.measured:
        return f"    {'tokens/s measured here':28} {told}"
    rough = f", roughly: it is {speed.other_weights}" if speed.other_weights else ""
    return f"    {'tokens/s predicted':28} {told}, from the bench of {speed.record}{rough}"


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f}"
