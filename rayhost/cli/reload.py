"""`rayhost reload`: a running host applies its profile as it is now and tells what that changed."""

from pathlib import Path
from typing import Annotated

import typer

from rayhost.errors import RayhostError


def reload(
    socket: Annotated[
        Path | None, typer.Option(help="Admin socket; without it, that of the only running host.")
    ] = None,
) -> None:
    """Apply a changed profile to a running host; a bad one changes nothing and is told."""
    import msgspec

    from rayhost import admin_socket
    from rayhost.cli.changes import Reloaded

    path = socket or admin_socket.only_host()
    # As long as it takes: models are loaded, and requests of removed ones end before the answer.
    status, body = admin_socket.ask(path, "POST", "/admin/reload", timeout_s=None)
    if status != 200:
        raise RayhostError(_reason(body) or f"{path}: the host answered with status {status}")
    try:
        changed = msgspec.json.decode(body, type=Reloaded)
    except msgspec.DecodeError as error:
        raise RayhostError(f"{path}: a host of another version: {error}") from None
    for line in list(changed.told()) or ["nothing has changed"]:
        typer.echo(line)


def _reason(body: bytes) -> str:
    import msgspec

    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return ""
