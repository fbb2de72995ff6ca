"""`rayhost check`: tell whether profiles are right, and everything that is wrong with them.

Reads the files it is given and nothing else; `make schema` uses it to write the JSON Schema.
"""

import json
from pathlib import Path
from typing import Annotated

import typer


def check(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE...", help="Profiles to check.")
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of profiles instead.")
    ] = False,
) -> None:
    """Check profiles: name every mistake in them, with its place and what would be valid."""
    from rayhost import profile

    if schema:
        typer.echo(json.dumps(profile.json_schema(), indent=2))
        return
    if not files:
        raise typer.BadParameter("name at least one profile", param_hint="FILE...")
    failed = False
    for path in files:
        try:
            models = profile.load(path).models
        except profile.ProfileError as error:
            failed = True
            typer.echo(str(error), err=True)
        else:
            names = ", ".join(model.name for model in models)
            typer.echo(f"{path}: ok ({len(models)} model{'s'[: len(models) > 1]}: {names})")
    if failed:
        raise typer.Exit(1)
