"""The slots nobody uses, and what their KV cells still hold: the next request may begin with it.

Invariant: `held` of a slot are exactly the tokens its cells were computed from. Pure.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Taken(NamedTuple):
    """A slot, and how many tokens of the request its cells hold already."""

    slot: int
    reusable: int


class FreeSlots:
    """Free slots, the longest unused first."""

    def __init__(self, count: int) -> None:
        self._held: dict[int, list[int]] = {slot: [] for slot in range(count)}

    def __bool__(self) -> bool:
        return bool(self._held)

    def take(self, tokens: list[int]) -> Taken:
        """Take the slot that suits a request best.

        That is the one holding most of it, if that is half of it, and of several the one that
        holds least else; or the longest unused, with whatever it happens to share. The last token
        is always computed anew, for its logits.
        """
        shared = {slot: common(held, tokens[:-1]) for slot, held in self._held.items()}
        best = max(shared, key=lambda slot: (shared[slot], -len(self._held[slot])))
        if 2 * shared[best] < len(tokens):
            best = next(iter(self._held))
        del self._held[best]
        return Taken(best, shared[best])

    def give(self, slot: int, held: list[int]) -> None:
        """Take back a slot whose cells hold these tokens."""
        self._held[slot] = held


def common(one: Iterable[int], other: Iterable[int]) -> int:
    """Return the length of what both begin with."""
    length = 0
    for first, second in zip(one, other, strict=False):
        if first != second:
            break
        length += 1
    return length
