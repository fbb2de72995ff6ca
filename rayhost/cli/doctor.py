"""`rayhost doctor`: what is wrong with this machine and the host on it, and how to mend it."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rayhost.doctor.finding import Finding

_STATE = "/var/lib/rayhost"  # the store of the installed service
_TOKENS = 32


def doctor(
    *,
    profile: Annotated[
        Path | None,
        typer.Option(help="Profile to look at; without it /etc/rayhost/profile.json, if there is."),
    ] = None,
    socket: Annotated[
        Path | None, typer.Option(help="Admin socket; without it, those of running hosts.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Ask for a stream there: does it come token by token?")
    ] = None,
    key: Annotated[
        str | None, typer.Option(envvar="RAYHOST_API_KEY", help="API key for --url.")
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Hash model files, too: takes seconds a gigabyte.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    root: Annotated[Path, typer.Option(hidden=True)] = Path("/"),
) -> None:
    """Look for what is wrong here; exit status 0: nothing, 1: warnings, 2: errors."""
    import msgspec

    from rayhost.cli.examination import INSTALLED, Examination, Subject
    from rayhost.doctor.finding import exit_status, worst_first

    installed = root / INSTALLED
    if profile is None and installed.exists():
        profile = installed
        os.environ.setdefault("RAYHOST_HOME", _STATE)
    found = list(Examination(Subject(profile, socket, deep, root)).findings())
    if url is not None:
        found += _through(url, key)
    found = worst_first(found)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        typer.echo(text(found))
    raise typer.Exit(exit_status(found))


def text(found: "Sequence[Finding]") -> str:
    """Return the findings for people."""
    lines = []
    for one in found:
        lines.append(f"{one.severity}: {one.check}: {one.what}")
        told = {"why": one.why, "fix": one.fix, "advice": one.advice}
        lines += [f"    {name}: {words}" for name, words in told.items() if words]
    counts = (sum(one.severity == kind for one in found) for kind in ("error", "warning", "note"))
    lines.append("{} errors, {} warnings, {} notes".format(*counts))
    return "\n".join(lines)


def _through(url: str, key: str | None) -> "Iterator[Finding]":
    """Yield what is wrong with a stream from a URL. Raises RayhostError where there is none."""
    from rayhost.cli.asking import chosen
    from rayhost.cli.client import Client
    from rayhost.doctor.proxy import check_arrivals

    client = Client(url, key)
    model = chosen(client, None)
    began_s = time.monotonic()
    question = [{"role": "user", "content": "Tell me a story."}]
    with client.chat(model, question, max_tokens=_TOKENS, temperature=1) as answer:
        arrivals_s = [time.monotonic() - began_s for _ in answer]
    yield from check_arrivals(url, arrivals_s)
