"""`rayhost serve`: read the profile, bind the port, find the models, then run the service."""

import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayhost.errors import RayhostError

if TYPE_CHECKING:
    from rayhost.http.traces import Tracing


class LogFormat(StrEnum):
    """How log lines look."""

    JSON = "json"
    CONSOLE = "console"


def serve(
    profile: Annotated[
        Path | None, typer.Option(help="Profile to serve; without it, smollm2-135m with defaults.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to bind instead.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port instead.")] = None,
    log_format: Annotated[
        LogFormat | None, typer.Option(help="Without it: console on a terminal, else json.")
    ] = None,
) -> None:
    """Serve the models of a profile over HTTP; pulls those that are missing first."""
    import structlog
    import uvloop

    from rayhost import admin_socket, logs, systemd
    from rayhost import profile as profiles
    from rayhost.cli.access import Access, access
    from rayhost.cli.changes import Setup
    from rayhost.cli.planning import Planner
    from rayhost.cli.service import Service
    from rayhost.http.server import adopt, listen
    from rayhost.models.store import default_root

    def read() -> profiles.Profile:
        if profile is None:
            return profiles.Profile(models=(profiles.ModelProfile("smollm2-135m"),))
        return profiles.load(profile)

    notifier = systemd.Notifier.taken_from(os.environ)
    listeners = systemd.taken_listeners(os.environ)
    systemd.take_secrets(os.environ)
    chosen = read()
    style = log_format or (LogFormat.CONSOLE if sys.stderr.isatty() else LogFormat.JSON)
    logs.configure(style.value)
    base = profile.parent if profile else Path.cwd()
    inherited = bool(listeners)
    addresses = [one.getsockname()[0] for one in listeners] or [host or chosen.listen.host]

    def entry(chosen: profiles.Profile) -> Access:
        return access(
            addresses,
            base / chosen.keys if chosen.keys else default_root() / "keys.json",
            chosen.listen.origins,
            open_to_all=chosen.listen.open,
        )

    def setup(chosen: profiles.Profile, may_enter: Access, alive: Callable[[], None]) -> Setup:
        planned = planner.plan(chosen, alive)
        return Setup(chosen, may_enter, planned, planner.budget, planner.front)

    def reread() -> tuple[profiles.Profile, Access]:
        now = read()
        return now, entry(now)

    planner = Planner(base, style.value)
    may_enter = entry(chosen)
    # Bound before anything is downloaded: a taken port is told at once.
    if not inherited:
        listeners = [listen(addresses[0], chosen.listen.port if port is None else port)]
    for listener in listeners:
        adopt(listener)
    first = setup(chosen, may_enter, notifier.extend)
    tracing = _tracing() if chosen.traces else None
    named = chosen.listen.admin_socket
    own = admin_socket.default_path(listeners[0].getsockname()[1])
    path = base / named if named else own
    with admin_socket.listening(path) as admin:
        structlog.get_logger("rayhost.serve").info("admin socket", path=str(path))
        service = Service(
            first,
            listeners=listeners,
            inherited=inherited,
            admin=admin,
            tracing=tracing,
            notifier=notifier,
            reread=reread,
            plan=setup,
        )
        status = uvloop.run(service.run())
    if tracing is not None:
        tracing.close()
    raise typer.Exit(status)


def _tracing() -> "Tracing":
    """Return what makes spans. Raises RayhostError when its libraries are not installed."""
    try:
        from rayhost.http.traces import Tracing
    except ImportError as error:
        raise RayhostError(
            f"traces need more libraries ({error}): pip install 'rayhost[otel]'"
        ) from None
    return Tracing.exporting()
