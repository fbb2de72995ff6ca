"""One client connection: uvicorn's HTTP/1.1 protocol, held to bounds of time and size.

Invariant: no client keeps a connection, or memory of this process, by sending or reading slowly;
one that cannot go on is told why in an OpenAI error. Used by `server` alone.

uvicorn itself bounds only the idle time between requests. Here each connection carries a stamp of
when its phase began, and the server looks at all of them once a second: two timers for each
request, armed and cancelled, would cost more than the whole walk (figures in docs/architecture.md).
"""

import asyncio
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, cast

import httptools
import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from rayhost import clock
from rayhost.errors import ApiError, HeadTooLarge, InvalidRequest, RequestTimeout, Unavailable
from rayhost.http.envelope import envelope
from rayhost.http.json import encode
from rayhost.metrics import Metrics

LINGER_NS = 2_000_000_000  # for a refused client to read why, before its connection is reset
WRITE_BUFFER = 16 << 10  # bytes waiting for a reader from which on its run is read no further
SILENT_NS = 1_000_000_000  # for a connection without a word, when the server leaves
LINGERING = 64  # at most so many beyond the cap; further ones are reset at once

log = structlog.get_logger("rayhost.http")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one client, and all of them together, may take. Times are seconds."""

    connections: int = 1000
    head_s: float = 10.0  # from the connection, or a request's first byte, to the end of its head
    body_s: float = 60.0  # from there to the end of its body
    reader_s: float = 60.0  # without a byte taken by a client that has some waiting
    head_bytes: int = 32 << 10


class Phase(Enum):
    """What a connection is waiting for."""

    HEAD = auto()  # the client, to say what it wants
    BODY = auto()  # the client, to send the rest of it
    ANSWER = auto()  # us
    IDLE = auto()  # the client's next request; uvicorn's keep-alive timer runs
    CLOSING = auto()  # the client, to read why it was refused


class State(ServerState):
    """What the connections of one server share."""

    def __init__(self, bounds: Bounds, metrics: Metrics) -> None:
        super().__init__()
        self.bounds = bounds
        self.metrics = metrics

    def sweep(self) -> None:
        """End every connection whose client is over time."""
        now_ns = clock.now_ns()
        for connection in list(self.connections):
            if isinstance(connection, Connection):
                connection.sweep(now_ns)

    def leave(self) -> bool:
        """Let no connection go on after its present answer; return whether none is left."""
        now_ns = clock.now_ns()
        for connection in list(self.connections):
            if isinstance(connection, Connection):
                connection.leave(now_ns)
        return not self.connections


class _Refused(Exception):
    """Leaves the parser from inside one of its callbacks."""


class Connection(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: State,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._shared = server_state
        self._bounds = server_state.bounds
        self._phase = Phase.HEAD
        self._since_ns = clock.now_ns()
        self._head_bytes = 0  # of this request's head so far, with what came in one piece with it
        self._beside_bytes = 0  # since the last of its body: sizes of chunks, trailers
        self._unread = 0  # bytes that the client left waiting, at the last sweep
        self._unread_since_ns = 0
        self._deaf = False  # what comes from the client is dropped
        self._last = False  # the present request, or the first one, is the last
        self._fault: ApiError | None = None
        self._declined = b""  # head of a request that offered another protocol, without the offer

    # What uvicorn and the transport say.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection, or turn it away while there are too many."""
        super().connection_made(cast(asyncio.Transport, transport))
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER)
        beyond = len(self.connections) - self._bounds.connections
        if beyond > LINGERING:
            self._shared.metrics.connection_closed("full")
            self.transport.abort()
        elif beyond > 0:
            full = f"the server holds {self._bounds.connections} connections and takes no more now"
            self._refuse(Unavailable(full, code="too_many_connections", retry_after=1), "full")

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        if self._phase is Phase.IDLE:
            self._enter(Phase.HEAD)
            self._head_bytes = 0
        if self._phase is Phase.HEAD:
            self._head_bytes += len(data)
        elif self._phase is Phase.BODY:
            self._beside_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            if not self._deaf:
                self._refuse(self._fault or _malformed(error), "malformed")
        else:
            if self._phase is Phase.HEAD and self._head_bytes > self._bounds.head_bytes:
                self._refuse(self._too_large("head"), "malformed")
            elif self._phase is Phase.BODY and self._beside_bytes > self._bounds.head_bytes:
                self._refuse(self._too_large("trailer section"), "malformed")

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # The parser stops at the head of a request that offers another protocol, and would
            # drop its body (Java's client offers HTTP/2 with every first request). So the offer is
            # taken out, and the request parsed again.
            (end_of_head,) = upgrade.args
            again, self._declined = self._declined + data[end_of_head:], b""
            self.parser = httptools.HttpRequestParser(self)
            try:
                self.parser.feed_data(again)
            except httptools.HttpParserUpgrade:  # CONNECT: nothing is left without it
                raise httptools.HttpParserInvalidMethodError("CONNECT is not supported") from None

    # What the parser says.

    def on_message_begin(self) -> None:
        """Begin a request; a pipelined one is left for its client to send again.

        HTTP lets a server do that, and clients of this API do not pipeline: so a connection has
        one request at a time, and a client that goes is the client of that request.
        """
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            self._deaf = True
            raise _Refused
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start the request's task."""
        if self._head_bytes > self._bounds.head_bytes:  # a body may have come in the same piece
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > self._bounds.head_bytes:
                self._fault = self._too_large("head")
                raise _Refused
        if self.parser.should_upgrade():
            self._declined = self._without_offer()
            return
        super().on_headers_complete()
        # What follows a body is a trailer: it must not pass for a header, which no proxy before us
        # has seen and no bound counted. So it goes into a list that nobody reads.
        self.headers = []
        if self._last:
            self.cycle.keep_alive = False
        self._beside_bytes = 0
        self._enter(Phase.BODY)

    def on_body(self, body: bytes) -> None:
        """Pass on a piece of the body."""
        self._beside_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The client has said all."""
        if self._declined:
            return
        super().on_message_complete()
        self._enter(Phase.IDLE if self.cycle.response_complete else Phase.ANSWER)

    def on_response_complete(self) -> None:
        """Wait for the next request, if the client is done with this one."""
        super().on_response_complete()
        if self._phase is Phase.ANSWER:
            self._enter(Phase.IDLE)

    # What the server's clock says.

    def sweep(self, now_ns: int) -> None:
        """End the connection if its client is over time."""
        elapsed_ns = now_ns - self._since_ns
        if self._phase is Phase.CLOSING:
            if elapsed_ns > LINGER_NS:
                self.transport.abort()
        elif self._unread_for_ns(now_ns) > self._bounds.reader_s * 1e9:
            self._shared.metrics.connection_closed("slow_reader")
            self.transport.abort()
        elif self._phase is Phase.HEAD and elapsed_ns > self._bounds.head_s * 1e9:
            self._late("head", self._bounds.head_s)
        elif self._phase is Phase.BODY and elapsed_ns > self._bounds.body_s * 1e9:
            self._late("body", self._bounds.body_s)

    def leave(self, now_ns: int) -> None:
        """Close after the present answer, or now where none is due.

        A client that has just connected is about to ask, and is answered.
        """
        silent = self._phase is Phase.HEAD and not self._head_bytes
        if self._phase is Phase.IDLE or (silent and now_ns - self._since_ns > SILENT_NS):
            self._unset_keepalive_if_required()
            self.transport.close()
            return
        self._last = True
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def _unread_for_ns(self, now_ns: int) -> int:
        """Return how long the client has taken nothing of what is ready for it."""
        unread = self.transport.get_write_buffer_size()
        if unread != self._unread or not unread:
            self._unread, self._unread_since_ns = unread, now_ns
        return now_ns - self._unread_since_ns

    def _late(self, part: str, allowed_s: float) -> None:
        if not self._head_bytes:  # it never said a word, so it waits for none
            self._shared.metrics.connection_closed("head_timeout")
            self.transport.close()
            return
        late = f"the request's {part} did not arrive within {allowed_s:g} s"
        self._refuse(RequestTimeout(late), f"{part}_timeout")

    def _refuse(self, error: ApiError, reason: str) -> None:
        """Say why, then close without the reset that would take the answer from the client."""
        self._shared.metrics.connection_closed(reason)
        self._unset_keepalive_if_required()
        self._deaf = True
        if self.cycle is not None and (self.cycle.response_started or self._phase is Phase.ANSWER):
            self.transport.abort()  # another answer is on its way, or was all there is to say
            return
        log.info("refused", status=error.status, code=error.code, client=self.client)
        if self.cycle is not None:  # its task is reading the body
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write(_response(error, self._shared.default_headers))
        self.transport.write_eof()
        self.flow.resume_reading()
        self._enter(Phase.CLOSING)

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._since_ns = clock.now_ns()

    def _without_offer(self) -> bytes:
        """Return the head of the present request without the headers about one connection."""
        lines = [
            b"%b: %b\r\n" % header
            for header in self.headers
            if header[0] not in (b"connection", b"upgrade", b"http2-settings")
        ]
        return b"".join(
            [self.parser.get_method(), b" ", self.url, b" HTTP/1.1\r\n", *lines, b"\r\n"]
        )

    def _too_large(self, part: str) -> HeadTooLarge:
        limit = self._bounds.head_bytes
        return HeadTooLarge(f"the request's {part} is over this server's limit of {limit} bytes")


def _malformed(error: httptools.HttpParserError) -> InvalidRequest:
    return InvalidRequest(f"this is not HTTP/1.1: {error}"[:200], code="malformed_http")


def _response(error: ApiError, default_headers: list[tuple[bytes, bytes]]) -> bytes:
    body = encode(envelope(error))
    headers = [
        *default_headers,
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after))
    lines = [STATUS_LINE[error.status], *(b"%b: %b\r\n" % header for header in headers)]
    return b"".join([*lines, b"\r\n", body])
