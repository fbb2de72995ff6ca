"""`rayhost serve`: read the profile, bind the port, find the models, then run the service."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayhost.errors import RayhostError

if TYPE_CHECKING:
    from rayhost.http.traces import Tracing
    from rayhost.ipc.messages import Load
    from rayhost.profile import ModelProfile


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

    from rayhost import admin_socket, logs
    from rayhost import profile as profiles
    from rayhost.cli.access import access
    from rayhost.cli.service import Service
    from rayhost.http.server import listen
    from rayhost.models.store import default_root

    chosen = (
        profiles.load(profile)
        if profile
        else profiles.Profile(models=(profiles.ModelProfile("smollm2-135m"),))
    )
    style = log_format or (LogFormat.CONSOLE if sys.stderr.isatty() else LogFormat.JSON)
    logs.configure(style.value)
    base = profile.parent if profile else Path.cwd()
    address = host or chosen.listen.host
    entry = access(
        address,
        base / chosen.keys if chosen.keys else default_root() / "keys.json",
        chosen.listen.origins,
        open_to_all=chosen.listen.open,
    )
    # Bound before anything is downloaded: a taken port is told at once.
    listener = listen(address, chosen.listen.port if port is None else port)
    planned = [(model, _plan(model, base, style)) for model in chosen.models]
    tracing = _tracing() if chosen.traces else None
    named = chosen.listen.admin_socket
    own = admin_socket.default_path(listener.getsockname()[1])
    path = base / named if named else own
    with admin_socket.listening(path) as admin:
        structlog.get_logger("rayhost.serve").info("admin socket", path=str(path))
        service = Service(
            planned,
            chosen.limits,
            listener=listener,
            cache=chosen.cache,
            access=entry,
            admin=admin,
            tracing=tracing,
            commands=chosen.hooks,
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


def _plan(model: "ModelProfile", base: Path, style: LogFormat) -> "Load | RayhostError":
    """Return what the model's worker is to load, or why it cannot. Raises for bad CPUs."""
    import structlog

    from rayhost.baseline import cpu
    from rayhost.baseline.calibration import Calibrations
    from rayhost.cli import preload
    from rayhost.cli.calibrated import calibrated
    from rayhost.cli.locate import locate
    from rayhost.ipc.messages import Load
    from rayhost.models.store import Store, default_root
    from rayhost.supervisor import pinning

    allowed = pinning.allowed_cpus()
    cpus, threads = pinning.place(
        model.name, model.cpus, model.threads, allowed=allowed, core_of=pinning.cores(allowed)
    )
    stored = locate(model, base)
    if isinstance(stored, RayhostError):
        return stored
    store = Store(default_root())
    choice = calibrated(model, stored, store, Calibrations(store.root, cpu.host()))
    if choice.advice:
        structlog.get_logger("rayhost.serve").info("not tuned", advice=choice.advice)
    settings = choice.settings
    try:
        prompts = preload.texts(model.preload, base)
    except RayhostError as error:
        return error
    return Load(
        name=model.name,
        path=str(choice.path),
        context=model.context,
        concurrency=model.concurrency,
        batch=model.batch,
        threads=settings.threads or threads,
        cpus=cpus,
        kv_type=settings.kv_type,
        kv_layout=settings.kv_layout,
        inter_token_ms=model.inter_token_ms,
        log_format=style.value,
        ubatch=settings.ubatch,
        flash_attention=settings.flash,
        snapshot_bytes=model.snapshots.ram_mb << 20,
        snapshot_dir=(
            str(store.root / "snapshots" / model.name) if model.snapshots.disk_mb else ""
        ),
        snapshot_dir_bytes=model.snapshots.disk_mb << 20,
        preload=prompts,
    )
