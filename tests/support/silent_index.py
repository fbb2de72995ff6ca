"""A pip index on localhost that takes connections and never answers."""

import contextlib
import socket
from collections.abc import Iterator, Sequence

from tests.support.waiting import DEADLINE_S


class SilentIndex:
    """`prefix` runs a command that looks for packages there and nowhere else."""

    def __init__(self, listener: socket.socket, clients: contextlib.ExitStack) -> None:
        port = listener.getsockname()[1]
        url = f"http://127.0.0.1:{port}/simple"
        self.prefix: Sequence[str] = ("env", "-u", "PIP_NO_INDEX", f"PIP_INDEX_URL={url}")
        self._listener = listener
        self._clients = clients

    def asked(self) -> None:
        """Return once another client waits for an answer."""
        self._clients.enter_context(self._listener.accept()[0])


@contextlib.contextmanager
def silent_index() -> Iterator[SilentIndex]:
    """Listen until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as clients:
        listener.settimeout(DEADLINE_S)
        yield SilentIndex(listener, clients)
