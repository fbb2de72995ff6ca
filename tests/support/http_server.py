"""Our HTTP server around any ASGI app, on a free port, in a thread of its own."""

import contextlib
import threading
from collections.abc import Iterator

from starlette.types import ASGIApp

from rayhost.http.protocol import Bounds
from rayhost.http.server import Server, listen, url
from rayhost.metrics import Metrics


@contextlib.contextmanager
def serving(
    app: ASGIApp, bounds: Bounds | None = None, metrics: Metrics | None = None
) -> Iterator[str]:
    """Serve `app` as rayhost does and yield its base URL, "http://127.0.0.1:PORT".

    The socket listens before this returns, so a client that is faster than uvicorn just waits in
    the backlog. Connections still open at the end are cut.
    """
    server = Server(app, bounds, metrics)
    server.config.timeout_graceful_shutdown = 1
    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield url(listener)
        finally:
            server.should_exit = True
            thread.join()
