"""`rayhost deploy render`: the files of a deployment, for people with tooling of their own."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Files to run rayhost as a service.", no_args_is_help=True)


class Group(StrEnum):
    """Files that belong together."""

    SYSTEMD = "systemd"
    CONTAINER = "container"
    EXAMPLES = "examples"


class Kind(StrEnum):
    """A reverse proxy."""

    NGINX = "nginx"
    CADDY = "caddy"


@app.callback()
def deploy() -> None:
    """Hold the verb below, which would else be the whole command."""


@app.command()
def render(
    *,
    out: Annotated[Path, typer.Option(help="Folder to write into.")],
    profile: Annotated[
        Path | None, typer.Option(help="Profile that will be served; else one with defaults.")
    ] = None,
    memory: Annotated[
        str, typer.Option(help="Memory of the machine it is for, such as 1GiB; else this one's.")
    ] = "",
    cpus: Annotated[str, typer.Option(help="CPUs of the service, as in 0-2,4; else all.")] = "",
    only: Annotated[Group | None, typer.Option(help="No other group of files.")] = None,
    proxy: Annotated[
        Kind | None, typer.Option(help="Only the configuration of this reverse proxy.")
    ] = None,
    domain: Annotated[str, typer.Option(help="Domain of the proxy.")] = "",
    certificate: Annotated[
        str, typer.Option(help="Its certificate with chain; else Let's Encrypt's.")
    ] = "",
    certificate_key: Annotated[str, typer.Option(help="The key of the certificate.")] = "",
) -> None:
    """Write units, container files and examples, or a proxy's configuration, for a profile."""
    from rayhost import profile as profiles
    from rayhost.deploy import proxy as proxies
    from rayhost.deploy.files import render as rendered
    from rayhost.deploy.files import render_proxy, write
    from rayhost.deploy.machine import described
    from rayhost.deploy.profile import read_profile
    from rayhost.deploy.settings import settings as made_of

    if profile is not None:
        profiles.load(profile)  # says everything that is wrong with it
    given = read_profile(profile)
    settings = made_of(given, described(memory), cpus)
    if proxy is None:
        files = rendered(settings, only)
    else:
        front = proxies.proxy(
            settings, given.get("limits", {}), domain, certificate, certificate_key
        )
        files = render_proxy(proxy, front)
    for path in write(files, out):
        typer.echo(path)
