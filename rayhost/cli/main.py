"""The `rayhost` command: its verbs, and the one place where an error becomes an exit status.

Invariant: importing this loads no server, no engine and no download client; a verb imports such
things when it runs, because `serve` becomes the front process and keeps what was loaded.
"""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rayhost import __version__
from rayhost.cli import (
    ask,
    bench,
    chat,
    check,
    deploy,
    doctor,
    key,
    models,
    plan,
    pull,
    reload,
    serve,
    top,
    tune,
)
from rayhost.errors import RayhostError


class Verbs(TyperGroup):
    """The verbs, whose failures end the process as an operator expects."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb: RayhostError prints its lines and exits 1, an interrupt exits 130."""
        try:
            return super().invoke(ctx)
        except RayhostError as error:
            for line in str(error).splitlines():
                typer.echo(f"rayhost: {line}", err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=Verbs,
    help="Host small language models on one cheap machine, behind an OpenAI-compatible API.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rayhost {__version__}")
        raise typer.Exit


@app.callback()
def rayhost(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it and end."),
    ] = False,
) -> None:
    """Hold the options that come before a verb."""


app.command()(ask.ask)
app.command()(bench.bench)
app.command()(chat.chat)
app.command()(check.check)
app.add_typer(key.app, name="key")
app.add_typer(deploy.app, name="deploy")
app.command()(doctor.doctor)
app.command()(models.models)
app.command()(plan.plan)
app.command()(pull.pull)
app.command()(reload.reload)
app.command()(serve.serve)
app.command()(top.top)
app.command()(tune.tune)
