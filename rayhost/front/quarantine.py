"""Requests that workers died of: one that is sent again is refused, before it kills two more. Pure.

Invariant: holds at most MOST of them, each for HOLD_NS, as keys of 16 bytes. One per lane, of what
its present model was asked.
"""

from rayhost.errors import WorkerLost
from rayhost.front.canonical import canonical_key
from rayhost.front.request import GenerateRequest

HOLD_NS = 600 * 1_000_000_000
MOST = 256


class Quarantine:
    """What was convicted lately. Times are CLOCK_MONOTONIC nanoseconds."""

    def __init__(self) -> None:
        self._until_ns: dict[bytes, int] = {}  # the oldest first

    def add(self, request: GenerateRequest, now_ns: int) -> None:
        """Refuse this request from now on, for a while."""
        key = canonical_key(request)
        self._until_ns.pop(key, None)
        self._until_ns[key] = now_ns + HOLD_NS
        if len(self._until_ns) > MOST:
            del self._until_ns[next(iter(self._until_ns))]

    def check(self, request: GenerateRequest, now_ns: int) -> None:
        """Raise WorkerLost for a request that workers died of lately."""
        if not self._until_ns:  # nearly always: then no key is made
            return
        until_ns = self._until_ns.get(canonical_key(request), 0)
        if now_ns < until_ns:
            raise WorkerLost(
                "workers died again and again on this request; it is not tried again for "
                f"{(until_ns - now_ns) // 1_000_000_000} s"
            )

    def clear(self) -> None:
        """Another model may live through them."""
        self._until_ns.clear()
