"""Room for what waits before it is admitted, in bytes or in number: bounded in all and for a key.

Invariant: what higher priorities hold never depends on what lower ones do, so nobody is kept out by
work that is to come after theirs; all priorities together hold four times the bound at most. One
alone is let in whatever its size. Pure.
"""

from collections import Counter

from rayhost.errors import Overloaded, QueueFull
from rayhost.front.fair import Claim
from rayhost.front.request import Priority

KEY_SHARE = 2  # a key may hold the bound over this


class Room:
    """`what` there is room for: bytes of text, questions."""

    def __init__(self, most: int, what: str) -> None:
        self._most = most
        self._what = what
        self._held: Counter[tuple[Priority, str]] = Counter()

    def enter(self, claim: Claim, size: int, retry_after: int) -> None:
        """Take so much of it; `leave` must follow. Raises QueueFull and Overloaded."""
        before = {key: n for key, n in self._held.items() if key[0] <= claim.priority}
        own = sum(n for (_, key), n in before.items() if key == claim.key)
        share = self._most // KEY_SHARE
        if claim.key and own and own + size > share:
            raise QueueFull(
                f"{own} {self._what} of this key wait to be read, and it may have {share}",
                retry_after=retry_after,
            )
        held = sum(before.values())
        if held and held + size > self._most:
            raise Overloaded(
                f"the server is busy: {held} {self._what} wait to be read, and there is room for "
                f"{self._most}",
                retry_after=retry_after,
                code="queue_full",
            )
        self._held[claim.priority, claim.key] += size

    def leave(self, claim: Claim, size: int) -> None:
        """Give it back."""
        self._held[claim.priority, claim.key] -= size
        self._held += Counter()  # drops what is zero
