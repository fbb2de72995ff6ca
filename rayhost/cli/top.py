"""`rayhost top`: a live view of a running host, from its admin socket."""

import time
from pathlib import Path
from typing import Annotated

import typer


def top(
    socket: Annotated[
        Path | None, typer.Option(help="Admin socket; without it, that of the only running host.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end.")] = False,
    interval: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Seconds between two frames.")
    ] = 1.0,
) -> None:
    """Show what a running host does: models, queue, requests, caches, memory."""
    from rich.console import Console
    from rich.live import Live

    from rayhost import admin_socket
    from rayhost.cli.frame import frame
    from rayhost.cli.reachable import state_of

    path = socket or admin_socket.only_host()
    state = state_of(path)
    console = Console()
    if once:
        console.print(frame(state, None, console.height))
        return
    with Live(frame(state, None, console.height), console=console, screen=True) as live:
        while True:
            time.sleep(interval)
            before, state = state, state_of(path)
            live.update(frame(state, before, console.height), refresh=True)
