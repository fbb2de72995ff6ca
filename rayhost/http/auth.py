"""Who asks, and on what terms: the API key, its limits, and the headers that ask for a priority or
a time-out. `Edge` asks the gate before any route sees a request.

Invariant: once keys are configured only `/health`, `/ready`, the API's own description and, from
this machine, `/metrics` answer without one; without keys web pages get no further than these.
"""

import ipaddress
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from starlette.types import Scope

from rayhost import clock
from rayhost.errors import InvalidRequest, Unauthorized
from rayhost.front.keys import Key, KeyRing
from rayhost.front.quota import Quotas
from rayhost.front.request import Priority, Terms
from rayhost.http.pages import Pages

MAX_TIMEOUT_MS = 86_400_000

# The last two are the same on every host.
_FREE = frozenset({"/health", "/ready", "/openapi.json", "/docs"})
_PRIORITIES = {one.name.lower().encode(): one for one in Priority}
_PROXIED = frozenset({b"forwarded", b"via", b"x-forwarded-for", b"x-real-ip"})


@dataclass(slots=True)
class Visit:
    """A request at the gate."""

    terms: Terms = field(default_factory=Terms)
    key: Key | None = None
    lowered: bool = False  # it asked for a higher priority than it gets
    counted: bool = False  # against its key's limits


class Gate:
    """The way in. Without a ring, or while that has no file of keys, everybody may enter."""

    def __init__(
        self,
        ring: KeyRing | None = None,
        quotas: Quotas | None = None,
        *,
        ceiling: Priority = Priority.HIGH,
        pages: Pages | None = None,
    ) -> None:
        """`ceiling` is the highest priority of those who have no key; `pages` says which of them
        are kept out, None: nobody.
        """
        self._ring = ring
        self._quotas = quotas or Quotas()
        self._ceiling = ceiling
        self._pages = pages

    def admit(self, scope: Scope) -> Visit:
        """Return who asks.

        Raises Unauthorized, Forbidden, and InvalidRequest for a header that is wrong.
        """
        key = self._key(scope)
        ceiling = self._ceiling if key is None else Priority[key.ceiling.upper()]
        wanted, timeout_ms = _wishes(scope)
        priority = max(Priority.NORMAL if wanted is None else wanted, ceiling)
        terms = Terms(
            key="" if key is None else key.id,
            weight=1.0 if key is None else key.weight,
            priority=priority,
            # For all that comes of the request: runs of it begin at different times.
            deadline_ns=None if timeout_ms is None else clock.now_ns() + timeout_ms * 1_000_000,
        )
        return Visit(terms, key, lowered=wanted is not None and wanted < priority)

    def begin(self, visit: Visit, scope: Scope) -> None:
        """Count a request that costs work. Raises RateLimited."""
        if visit.key is not None and scope["method"] == "POST":
            self._quotas.begin(visit.key, clock.now_ns())
            visit.counted = True

    def end(self, visit: Visit) -> None:
        """The request is over, however it went."""
        if visit.counted and visit.key is not None:
            self._quotas.end(visit.key, clock.now_ns())

    def headers(self, visit: Visit) -> Iterator[tuple[bytes, bytes]]:
        """Yield what every response tells of the terms and limits; the latter as OpenAI does."""
        if visit.lowered:
            yield b"x-rayhost-priority", visit.terms.priority.name.lower().encode()
        if visit.key is None:
            return
        for left in self._quotas.left(visit.key, clock.now_ns()):
            what = left.what.encode()
            yield b"x-ratelimit-limit-" + what, b"%d" % left.limit
            yield b"x-ratelimit-remaining-" + what, b"%d" % left.remaining
            yield b"x-ratelimit-reset-" + what, _duration(left.reset_s)

    def _key(self, scope: Scope) -> Key | None:
        if scope["path"] in _FREE:
            return None
        if self._ring is None or not self._ring.configured:
            if self._pages is not None:
                self._pages.refuse(scope["headers"])
            return None
        given = _header(scope, b"authorization")
        if given is None:
            given = _api_key(scope)
        if given is None and scope["path"] == "/metrics" and _is_local(scope):
            return None
        if given is None:
            raise Unauthorized(
                "You didn't provide an API key. Send it in the header "
                "Authorization: Bearer YOUR_KEY."
            )
        scheme, _, secret = given.decode("latin-1").partition(" ")
        key = self._ring.find(secret.strip()) if scheme.lower() == "bearer" else None
        if key is None:  # and nothing of what was sent: logs and screens are read by others
            raise Unauthorized("Incorrect API key provided.")
        return key


def _wishes(scope: Scope) -> tuple[Priority | None, int | None]:
    """Return the priority and the time-out in milliseconds that the headers ask for."""
    priority, timeout_ms = None, None
    for name, value in scope["headers"]:
        if name == b"x-rayhost-priority":
            priority = _PRIORITIES.get(value.strip().lower())
            if priority is None:
                raise InvalidRequest(
                    "X-Rayhost-Priority: must be one of high, normal, low, batch",
                    param="X-Rayhost-Priority",
                )
        elif name == b"x-rayhost-timeout-ms":
            timeout_ms = int(value) if value.isdigit() and len(value) < 10 else 0
            if not 1 <= timeout_ms <= MAX_TIMEOUT_MS:
                raise InvalidRequest(
                    f"X-Rayhost-Timeout-Ms: must be a whole number from 1 to {MAX_TIMEOUT_MS}",
                    param="X-Rayhost-Timeout-Ms",
                )
    return priority, timeout_ms


def _header(scope: Scope, wanted: bytes) -> bytes | None:
    return next((value for name, value in scope["headers"] if name == wanted), None)


def _api_key(scope: Scope) -> bytes | None:
    """Return the key as Anthropic's clients send it, in the form that OpenAI's do."""
    given = _header(scope, b"x-api-key")
    return None if given is None else b"Bearer " + given


def _is_local(scope: Scope) -> bool:
    """Tell whether a client is on this machine, and not behind a proxy that is."""
    client = scope.get("client")
    if client is None or any(name in _PROXIED for name, _ in scope["headers"]):
        return False
    try:
        return ipaddress.ip_address(client[0]).is_loopback
    except ValueError:  # the name of a test, a path
        return False


def _duration(seconds: float) -> bytes:
    """Return a time as OpenAI writes it: 120ms, 1.5s, 6m0s."""
    if seconds < 1:
        return b"%dms" % math.ceil(seconds * 1000)
    if seconds < 60:
        return f"{seconds:.1f}".removesuffix(".0").encode() + b"s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return b"%dm%ds" % (minutes, rest)
