"""`rayhost plan`: what fits into this machine's memory, or into one that is described.

Nothing is downloaded or loaded. The entry point registers `plan`.
"""

from typing import Annotated

import msgspec
import typer

from rayhost.cli.forecast import Forecaster, Plan, Speed
from rayhost.governor.costs import MIB
from rayhost.sizes import parse_size


def plan(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROFILE|MODEL...", help="without any: smollm2-135m with defaults"),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Of another machine, such as 1GiB or 768MiB.")
    ] = None,
    cores: Annotated[float | None, typer.Option(min=0.1, help="Of another machine.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Say what fits into memory, at which context and concurrency, without loading anything."""
    forecaster = Forecaster(None if memory is None else parse_size(memory), cores)
    found = [forecaster.plan(target) for target in targets or ["smollm2-135m"]]
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        typer.echo("\n\n".join(text(one) for one in found))
    if any(one.refusal for one in found):
        raise typer.Exit(1)


def text(plan: Plan) -> str:
    """Return the plan for people."""
    lines = [
        f"{plan.profile}: {_mib(plan.limit)} MiB of memory, {_mib(plan.room)} for rayhost, "
        f"{plan.cores:g} cores"
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
            lines.append(
                f"    once JSON or tools are asked for {_mib(row.constrained):>3} MiB more"
            )
        if row.tokens_s:
            lines.append(f"    tokens/s measured here       {_rates(row.tokens_s)}")
    share = plan.needed / plan.room if plan.room else 0.0
    lines.append(f"  {'front':30}{_mib(plan.front):>8} MiB")
    lines.append(f"  {'together':30}{_mib(plan.needed):>8} MiB, {share:.0%} of the room")
    return "\n".join(lines)


def _rates(speed: Speed) -> str:
    def told(value: float | None) -> str:
        return "?" if value is None else f"{value:,.0f}"

    return (
        f"{told(speed.prefill)} prompt, {told(speed.one)} generated alone, "
        f"{told(speed.all)} by {speed.sequences}"
    )


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f}"
