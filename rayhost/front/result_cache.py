"""Whole answers, kept in memory: bounded in bytes and by age; the least often used goes first.

Invariant: `bytes_used` never exceeds the limit, and no answer older than its time to live is
returned, or kept once another is stored. Single-threaded; used by `sharing`.
"""

import sys
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from cachetools import LFUCache

from rayhost import clock
from rayhost.front.request import Finish, Recalled

OVERHEAD = 600  # bytes of an entry beyond its text and ends, as measured


@dataclass(frozen=True, slots=True)
class _Entry:
    model: str
    text: str
    ends: "array[int]"  # of each piece in `text`: a string for each would take ten times as much
    finish: Finish
    born_ns: int
    tool_syntax: str
    fingerprint: str

    @property
    def size(self) -> int:
        held = sys.getsizeof(self.text) + sys.getsizeof(self.ends) + len(self.finish.vector)
        return held + OVERHEAD


class _Entries(LFUCache[bytes, _Entry]):
    """`by_age` has the same entries, the oldest first; looking there is no use of them."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes, getsizeof=lambda entry: entry.size)
        self.by_age: dict[bytes, _Entry] = {}

    def __setitem__(self, key: bytes, entry: _Entry) -> None:
        super().__setitem__(key, entry)
        self.by_age.pop(key, None)
        self.by_age[key] = entry

    def __delitem__(self, key: bytes) -> None:
        super().__delitem__(key)
        del self.by_age[key]


class ResultCache:
    """Answers by key. A limit of 0 bytes keeps none."""

    def __init__(
        self, limit_bytes: int, ttl_s: float, now_ns: Callable[[], int] = clock.now_ns
    ) -> None:
        self.generation = 0  # grows when all is forgotten
        self._entries = _Entries(limit_bytes)
        self.ttl_s = ttl_s  # may be changed: it holds for what is kept already, too
        self._now_ns = now_ns

    def __len__(self) -> int:
        """Return how many answers there are."""
        return len(self._entries)

    @property
    def limit_bytes(self) -> int:
        """Memory that they may take."""
        return int(self._entries.maxsize)

    @property
    def bytes_used(self) -> int:
        """Memory that the answers take."""
        return int(self._entries.currsize)

    def get(self, key: bytes) -> Recalled | None:
        """Return the answer of that key, if there is one."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        age_ns = self._now_ns() - entry.born_ns
        if age_ns >= self.ttl_s * 1e9:
            del self._entries[key]
            return None
        age_s = age_ns // 10**9
        return Recalled(
            entry.model,
            entry.text,
            entry.ends,
            entry.finish,
            age_s,
            entry.tool_syntax,
            entry.fingerprint,
        )

    def put(
        self,
        key: bytes,
        model: str,
        pieces: Sequence[str],
        finish: Finish,
        *,
        tool_syntax: str = "",
        fingerprint: str = "",
    ) -> None:
        """Keep an answer, unless it is larger than the whole cache."""
        self._expire()
        finish = replace(finish, reused_tokens=finish.prompt_tokens)  # from now on
        ends = array("I", accumulate(map(len, pieces)))
        entry = _Entry(
            model, "".join(pieces), ends, finish, self._now_ns(), tool_syntax, fingerprint
        )
        if entry.size <= self._entries.maxsize:
            self._entries[key] = entry

    def limit(self, limit_bytes: int) -> None:
        """Keep no more than so many bytes from now on; what is used least goes first."""
        if limit_bytes == self._entries.maxsize:
            return
        former, self._entries = self._entries, _Entries(limit_bytes)
        while former.currsize > limit_bytes:
            former.popitem()
        for key, entry in former.by_age.items():
            self._entries[key] = entry

    def drop(self, model: str) -> int:
        """Forget every answer of a model; return how many there were."""
        keys = [key for key, entry in self._entries.by_age.items() if entry.model == model]
        for key in keys:
            del self._entries[key]
        return len(keys)

    def clear(self) -> int:
        """Forget every answer; return how many there were."""
        self.generation += 1
        dropped = len(self._entries)
        self._entries = _Entries(int(self._entries.maxsize))
        return dropped

    def _expire(self) -> None:
        # Else an answer that was in demand once would outlive its use: its count protects it.
        oldest_ns = self._now_ns() - int(self.ttl_s * 1e9)
        while self._entries:
            key, entry = next(iter(self._entries.by_age.items()))
            if entry.born_ns > oldest_ns:
                return
            del self._entries[key]
