"""The HTTP server process shell: uvicorn on a socket of ours, with signals left to the caller."""

import asyncio
import contextlib
import resource
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from rayhost.errors import RayhostError
from rayhost.http.protocol import Bounds, Connection, State
from rayhost.metrics import Metrics

BACKLOG = 2048
KEEP_ALIVE_S = 75  # longer than the upstream keep-alive of nginx (60 s), so that it closes first
# What the kernel may hold of an answer that nobody reads. Left alone it grows to megabytes for each
# connection, outside of every limit of ours; a stream of tokens needs a few kilobytes.
SEND_BUFFER = 64 << 10
SPARE_DESCRIPTORS = 256  # for all but connections: workers' channels, files, log, epoll
FLUSH_S = 5  # for the last bytes of answers that ended, when the server goes down


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises RayhostError, naming the address."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise RayhostError(f"cannot listen on {host}: {error.strerror}") from None
    except UnicodeError:  # a label over 63 characters, or none between two dots
        raise RayhostError(f"cannot listen on {host}: not a host name") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # accepted ones too
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise RayhostError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port, "
            "or 0 for any free one"
        ) from None
    return listener


def adopt(listener: socket.socket) -> None:
    """Make a listening socket that somebody else opened like one of `listen`."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    listener.setblocking(False)


def url(listener: socket.socket) -> str:
    """Return the base URL for people to paste."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # not an address that one can connect to everywhere
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def room_for(connections: int) -> int:
    """Let this process open so many connections; return how many it can, if the system allows less.

    Without room, `accept` fails and the client waits for nothing instead of being told.
    """
    wanted = connections + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(1, min(connections, soft - SPARE_DESCRIPTORS))
    return connections


class _Door:
    """The app that is served now, also on connections that are older than it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: going down is more than closing connections here."""

    def __init__(
        self, app: ASGIApp, bounds: Bounds | None = None, metrics: Metrics | None = None
    ) -> None:
        """`metrics` counts the connections that were ended for what their client did."""
        self._door = _Door(app)
        super().__init__(
            uvicorn.Config(
                self._door,
                loop="uvloop",
                http=Connection,
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=FLUSH_S,
            )
        )
        self._state = State(bounds or Bounds(), metrics or Metrics())
        self.server_state = self._state
        self.ticks = 0  # turns of its loop, ten a second
        self._left: asyncio.Event | None = None

    @property
    def connections(self) -> int:
        """Open client connections."""
        return len(self._state.connections)

    def serve_app(self, app: ASGIApp, bounds: Bounds) -> None:
        """Go on with another app, and with other bounds for connections that come from now on."""
        self._door.app = app
        self._state.bounds = bounds

    async def leave(self) -> None:
        """Accept no more connections; return once each has had its last answer and is closed.

        The listening sockets stay open where another process holds them, so who comes now waits
        there for the next server.
        """
        for server in self.servers if self.started else ():
            server.close()
        self._left = asyncio.Event()
        await self._left.wait()

    async def on_tick(self, counter: int) -> bool:
        """Each second, of uvicorn's ten ticks, end what is over time."""
        self.ticks += 1
        if self._left is not None and self._state.leave():
            self._left.set()
        if counter % 10 == 0:
            self._state.sweep()
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield
