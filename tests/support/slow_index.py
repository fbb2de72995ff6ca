"""A pip index on localhost that serves half of a wheel and then makes no progress."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass(frozen=True)
class SlowIndex:
    """`url` is for PIP_FIND_LINKS; the events say how far the first download came."""

    url: str
    half_sent: threading.Event = field(default_factory=threading.Event)
    client_gone: threading.Event = field(default_factory=threading.Event)


@contextmanager
def slow_index(wheel: Path) -> Iterator[SlowIndex]:
    """Serve one wheel: its first half, and nothing more until the client hangs up."""
    content = wheel.read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            if not self.path.endswith(".whl"):
                page = f'<!DOCTYPE html><a href="{wheel.name}">{wheel.name}</a>'.encode()
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)
                return
            self.send_header("Content-Type", "application/zip")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            index.half_sent.set()
            # A client that is killed with bytes unread resets the connection instead of closing it.
            with suppress(ConnectionResetError):
                while self.connection.recv(1):
                    pass
            index.client_gone.set()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    index = SlowIndex(f"http://127.0.0.1:{server.server_address[1]}/")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield index
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
