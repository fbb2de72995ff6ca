"""An admin socket as a running host has it, over a control that the test plays."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rayhost import admin_socket
from rayhost.cli.changes import Reloaded
from rayhost.errors import InvalidRequest, ModelNotFound, Unavailable
from rayhost.front.state import HostState
from rayhost.http.admin import build_admin_app
from rayhost.http.server import Server
from tests.cli.states import host, model


class FakeControl:
    def __init__(self, state: HostState | None = None) -> None:
        self.restarted: list[str] = []
        self._state = state or host(model())

    def state(self) -> HostState:
        return self._state

    def purge_cache(self) -> int:
        return 42

    async def restart(self, model: str) -> None:
        if model == "gone":
            raise ModelNotFound("no such model", param="model")
        if model == "broken":
            raise Unavailable("it does not load", code="restart_failed")
        self.restarted.append(model)

    async def reload(self) -> Reloaded:
        raise InvalidRequest("models: missing", code="reload_refused")


@contextmanager
def served(path: Path, control: FakeControl) -> Iterator[None]:
    with admin_socket.listening(path) as listener:
        server = Server(build_admin_app(control))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield
        finally:
            server.should_exit = True
            thread.join()
