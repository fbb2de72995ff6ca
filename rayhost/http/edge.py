"""The outermost layer: request ids, and every failure turned into an OpenAI error, here only.

Invariant: whatever is raised below, the client gets an envelope (or, once a stream has begun, an
error event), and nothing of an unexpected exception but its request id. Used by `app` alone.
"""

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayhost.errors import ApiError, MethodNotAllowed, NotFound, Unauthorized
from rayhost.http import sse
from rayhost.http.auth import Gate, Visit
from rayhost.http.connection import ClientGone
from rayhost.http.envelope import envelope
from rayhost.http.json import encode
from rayhost.http.messages_errors import messages_envelope, speaks_anthropic

Headers = list[tuple[bytes, bytes]]

log = structlog.get_logger("rayhost.http")

_SANE_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_SCOPE_KEY = "rayhost.exchange"


@dataclass(slots=True)
class Exchange:
    """One request and how far its answer got."""

    request_id: str
    visit: Visit = field(default_factory=Visit)
    submitted: bool = False  # the front has it: the log line is the front's from here on
    started: bool = False  # the status is sent, an error can no longer change it
    ended: bool = False
    failed: Callable[[ApiError], bytes] | None = None  # writes an error into a stream that began


def exchange_of(scope: Scope) -> Exchange:
    """Return the exchange of a request that came through `Edge`."""
    exchange: Exchange = scope[_SCOPE_KEY]
    return exchange


class Edge:
    """ASGI app around the routes."""

    def __init__(
        self,
        routes: ASGIApp,
        gate: Gate,
        refused: Callable[[str], None] = lambda _code: None,
        degraded: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """`refused` hears of each request that got no further than here, by its error code, and of
        each that failed by a mistake of ours, wherever.

        `degraded` returns what is given up at the moment for want of memory.
        """
        self._routes = routes
        self._gate = gate
        self._refused = refused
        self._degraded = degraded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        if scope["type"] != "http":
            await self._routes(scope, receive, send)
            return
        exchange = scope[_SCOPE_KEY] = Exchange(_request_id(scope))
        scope["app"] = self  # makes starlette raise its 404 and 405 instead of answering in text

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.started = True
                ids = _id_headers(exchange.request_id, scope["path"])
                terms = self._gate.headers(exchange.visit)
                message["headers"] = [*message["headers"], *ids, *terms]
                if rungs := self._degraded():
                    told = ", ".join(rungs).encode("ascii")
                    message["headers"].append((b"x-rayhost-degraded", told))
            elif not message.get("more_body", False):
                exchange.ended = True
            await send(message)

        try:
            exchange.visit = self._gate.admit(scope)
            self._gate.begin(exchange.visit, scope)
            await self._routes(scope, receive, sending)
        except ClientGone:
            if not exchange.submitted:
                _log_refused(scope, exchange, status=499, code="client_gone", param=None)
        except Exception as failure:
            error, headers = _translate(failure, scope)
            if error is None:
                log.exception("crashed", request_id=exchange.request_id, path=scope["path"])
                error = ApiError(f"internal error; the request id is {exchange.request_id}")
                self._refused(error.code)
            elif not exchange.submitted:
                _log_refused(scope, exchange, error.status, error.code, error.param)
                self._refused(error.code)
            await _send_error(error, headers, exchange, scope["path"], sending)
        finally:
            self._gate.end(exchange.visit)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            sane: bytes = value
            return sane.decode("ascii")
    return secrets.token_hex(16)


def _id_headers(request_id: str, path: str) -> Headers:
    value = request_id.encode("ascii")
    if speaks_anthropic(path):  # whose clients look for it under their name
        return [(b"x-request-id", value), (b"request-id", value)]
    return [(b"x-request-id", value)]


def _translate(failure: Exception, scope: Scope) -> tuple[ApiError | None, Headers]:
    """Return what the client is told of a failure, None for one that nobody foresaw."""
    if isinstance(failure, Unauthorized):
        return failure, [(b"www-authenticate", b"Bearer")]
    if isinstance(failure, ApiError):
        return failure, []
    asked = f"{scope['method']} {scope['path'][:200]}"
    match failure:
        case HTTPException(status_code=404):
            return NotFound(f"there is no route for {asked}"), []
        case HTTPException(status_code=405, headers={"Allow": allowed}):
            error = MethodNotAllowed(f"{asked}: this route takes {allowed} only")
            return error, [(b"allow", allowed.encode("ascii"))]
    return None, []


def _log_refused(
    scope: Scope, exchange: Exchange, status: int, code: str, param: str | None
) -> None:
    log.info(
        "refused",
        status=status,
        code=code,
        param=param,
        request_id=exchange.request_id,
        method=scope["method"],
        path=scope["path"][:200],
    )


async def _send_error(
    error: ApiError, extra: Headers, exchange: Exchange, path: str, send: Send
) -> None:
    if exchange.ended:
        return
    if exchange.started:  # only a stream ends apart from its start
        events = exchange.failed(error) if exchange.failed else sse.event(envelope(error))
        await send({"type": "http.response.body", "body": events})
        return
    if speaks_anthropic(path):
        body = encode(messages_envelope(error, exchange.request_id))
    else:
        body = encode(envelope(error))
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *extra,
    ]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after))
    if error.hopeless:
        headers.append((b"x-should-retry", b"false"))
    if error.status == 413:  # the rest of the body is not worth reading
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
