"""What each API key has used of its limits: requests at once, requests and tokens a minute.

A limit is a bucket that holds a minute's worth and fills at a steady rate. Tokens are taken when
they were computed, so a bucket may be in debt, and then nothing comes in until it is paid: the mean
is what the limit says. Answers that cost nothing, from the result cache, take none. Pure.
"""

import math
from dataclasses import dataclass

from rayhost.errors import RateLimited
from rayhost.front.drain_rate import DrainRate
from rayhost.front.keys import Key

_MINUTE_NS = 60_000_000_000


@dataclass(slots=True)
class _Bucket:
    """`level` is what was left of `size` at `at_ns`."""

    size: int
    level: float
    at_ns: int

    def fill(self, size: int, now_ns: int) -> None:
        """Bring it up to now; the limit may have been changed meanwhile."""
        grown = (now_ns - self.at_ns) * size / _MINUTE_NS
        self.size, self.level, self.at_ns = size, min(size, self.level + grown), now_ns

    def wait_s(self, level: float) -> float:
        """Return the seconds until it holds that much."""
        return max(0.0, (level - self.level) * 60 / self.size)


@dataclass(frozen=True, slots=True)
class Left:
    """One limit as a response header tells it."""

    what: str  # "requests" or "tokens"
    limit: int
    remaining: int
    reset_s: float  # until all of it is there again


class _Use:
    """What one key has used."""

    def __init__(self) -> None:
        self.running = 0
        self.rate = DrainRate()
        self.buckets: dict[str, _Bucket] = {}

    def bucket(self, what: str, size: int | None, now_ns: int) -> _Bucket | None:
        if size is None:
            self.buckets.pop(what, None)
            return None
        bucket = self.buckets.setdefault(what, _Bucket(size, size, now_ns))
        bucket.fill(size, now_ns)
        return bucket


class Quotas:
    """The use of all keys, by their ids."""

    def __init__(self) -> None:
        self._uses: dict[str, _Use] = {}

    def begin(self, key: Key, now_ns: int) -> None:
        """A request of that key comes; `end` must follow. Raises RateLimited."""
        use = self._uses.setdefault(key.id, _Use())
        if key.concurrency is not None and use.running >= key.concurrency:
            raise RateLimited(
                f"this key may have {key.concurrency} requests at once, and has {use.running}",
                retry_after=use.rate.retry_after(1),
            )
        requests = use.bucket("requests", key.requests_per_minute, now_ns)
        tokens = use.bucket("tokens", key.tokens_per_minute, now_ns)
        for what, bucket, needed in (("requests", requests, 1), ("tokens", tokens, 1)):
            if bucket is not None and bucket.level < needed:
                raise RateLimited(
                    f"this key may use {bucket.size} {what} a minute, and has used them",
                    retry_after=max(1, math.ceil(bucket.wait_s(needed))),
                )
        if requests is not None:
            requests.level -= 1
        use.running += 1

    def end(self, key: Key, now_ns: int) -> None:
        """That request has its answer, or will have none."""
        use = self._uses[key.id]
        use.running -= 1
        use.rate.ended(now_ns)
        if not use.running:
            use.rate.idle()

    def spent(self, key_id: str, tokens: int) -> None:
        """Take tokens that were computed for a key."""
        use = self._uses.get(key_id)
        if use is not None and (bucket := use.buckets.get("tokens")):
            bucket.level -= tokens

    def left(self, key: Key, now_ns: int) -> list[Left]:
        """Return what is left of the limits that a key has."""
        use = self._uses.get(key.id, _Use())
        limits = (("requests", key.requests_per_minute), ("tokens", key.tokens_per_minute))
        return [
            Left(what, size, max(0, int(bucket.level)), bucket.wait_s(size))
            for what, size in limits
            if size is not None and (bucket := use.bucket(what, size, now_ns))
        ]
