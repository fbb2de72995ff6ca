"""The order in which waiting runs start: by priority, inside one by key, inside a key by arrival.

Invariant: a key is charged for what it starts, in tokens over its weight, and the key charged
least starts next; so keys that always have work waiting get tokens in proportion to their weights.
A level that higher ones keep from starting has one turn in each `STARVED_NS`. Pure.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

from rayhost.front.request import Priority, Terms

# Of the level, not of each request: else a backlog of old work of low priority would all go before
# fresh work of high priority, just when that matters.
STARVED_NS = 10_000_000_000
# Measured on 2 cores: prompts 850 tokens a second, answers 190 alone and 390 in a batch of 8.
ANSWER_COST = 3  # of a generated token, in prompt tokens


@dataclass(slots=True, kw_only=True, eq=False)
class Claim:
    """What a run asks of the box. Sizes in tokens, times in nanoseconds of one clock."""

    key: str
    weight: float
    priority: Priority
    prompt: int
    answer: int  # as expected
    most: int  # that the answer may have
    deadline_ns: int | None = None
    charged: float = 0.0  # prompt tokens, from its start to its end

    @classmethod
    def of(cls, terms: Terms) -> Self:
        """Return the claim of a request whose prompt is not read yet: its sizes are still 0."""
        return cls(
            key=terms.key,
            weight=terms.weight,
            priority=terms.priority,
            prompt=0,
            answer=0,
            most=0,
            deadline_ns=terms.deadline_ns,
        )


class Claimant(Protocol):
    """Whatever waits."""

    claim: Claim


Item = TypeVar("Item", bound=Claimant)


def cost(prompt: int, answer: int) -> float:
    """Return what computing so many tokens counts, in prompt tokens."""
    return float(prompt + ANSWER_COST * answer)


class _Line(Generic[Item]):
    """One key: its waiting runs, and what it was charged, in prompt tokens.

    `served` is over its weight and for runs that ended; `pending` is what those that started are
    expected to cost. Apart, so that no estimate outlives the run it was made for.
    """

    def __init__(self) -> None:
        self.waiting: deque[Item] = deque()
        self.weight = 1.0
        self.served = 0.0
        self.pending = 0.0

    @property
    def active(self) -> bool:
        """Whether it has or wants a sequence."""
        return bool(self.waiting) or self.pending > 0

    @property
    def turn(self) -> float:
        """The line with the lowest is next."""
        return self.served + self.pending / self.weight

    def turns(self, order: int) -> Iterator[tuple[float, int, Item]]:
        """Yield the runs with what `turn` will be when each one's comes."""
        turn = self.turn
        for item in self.waiting:
            yield turn, order, item
            turn += cost(item.claim.prompt, item.claim.answer) / self.weight


class _Level(Generic[Item]):
    """The runs of one priority."""

    def __init__(self) -> None:
        self.lines: dict[str, _Line[Item]] = {}
        self.size = 0  # waiting
        self.turn_ns = 0  # when it last had a turn or began to wait

    def push(self, item: Item, now_ns: int, *, first: bool) -> None:
        if not self.size:
            self.turn_ns = now_ns
        line = self._line(item.claim)
        if first:
            line.waiting.appendleft(item)
        else:
            line.waiting.append(item)
        self.size += 1

    def head(self) -> Item:
        return self._next().waiting[0]

    def pop(self, now_ns: int) -> Item:
        line = self._next()
        item = line.waiting.popleft()
        self.size -= 1
        self.turn_ns = now_ns
        item.claim.charged = cost(item.claim.prompt, item.claim.answer)
        line.pending += item.claim.charged
        return item

    def remove(self, item: Item) -> None:
        self.lines[item.claim.key].waiting.remove(item)
        self.size -= 1

    def settle(self, claim: Claim, spent: float) -> None:
        line = self.lines[claim.key]
        line.pending -= claim.charged
        line.served += spent / line.weight

    def order(self) -> Iterator[Item]:
        lines = [line.turns(n) for n, line in enumerate(self.lines.values()) if line.waiting]
        return (item for _, _, item in heapq.merge(*lines, key=lambda turn: turn[:2]))

    def greediest(self) -> _Line[Item]:
        """Return the line with most waiting for its weight."""
        return max(self.lines.values(), key=lambda line: len(line.waiting) / line.weight)

    def _line(self, claim: Claim) -> _Line[Item]:
        """Return the line of a key. The time that a key was away is no credit to it."""
        served = [line.served for line in self.lines.values() if line.active]
        if not served:
            self.lines.clear()  # nobody is there who would be owed anything
        line = self.lines.setdefault(claim.key, _Line())
        if served and not line.active:
            line.served = max(line.served, min(served))
        line.weight = claim.weight
        return line

    def _next(self) -> _Line[Item]:
        return min((line for line in self.lines.values() if line.waiting), key=_turn)


def _turn(line: _Line[Item]) -> float:
    return line.turn


class FairQueue(Generic[Item]):
    """Waiting runs. `pop` takes the one that `head` names at the same time."""

    def __init__(self) -> None:
        self._levels: dict[Priority, _Level[Item]] = {one: _Level() for one in Priority}
        self._returned: deque[Item] = deque()

    def __len__(self) -> int:
        return len(self._returned) + sum(level.size for level in self._levels.values())

    def __iter__(self) -> Iterator[Item]:
        """Yield every run in the order of their turns, if nobody comes meanwhile."""
        levels = (level.order() for level in self._levels.values())
        return itertools.chain(self._returned, *levels)

    def size(self, priority: Priority) -> int:
        """Return how many wait with that priority, returned ones not counted."""
        return self._levels[priority].size

    def push(self, item: Item, now_ns: int) -> None:
        """Add a run behind the others of its key."""
        self._levels[item.claim.priority].push(item, now_ns, first=False)

    def yielded(self, item: Item, now_ns: int) -> None:
        """Take back a run that gave way to a higher one: next of its key, its charge undone."""
        self.settle(item.claim, 0.0)
        self._levels[item.claim.priority].push(item, now_ns, first=True)

    def returned(self, item: Item) -> None:
        """Take back a run that lost its worker: before everybody else, as it had its turn."""
        self._returned.appendleft(item)

    def head(self, now_ns: int) -> Item:
        """Return the run whose turn it is. The queue must not be empty."""
        return self._returned[0] if self._returned else self._due(now_ns).head()

    def pop(self, now_ns: int) -> Item:
        """Take that run out and charge its key for what it is expected to cost."""
        return self._returned.popleft() if self._returned else self._due(now_ns).pop(now_ns)

    def remove(self, item: Item) -> None:
        """Take out any run. Raises ValueError for one that does not wait."""
        if item in self._returned:
            self._returned.remove(item)
        else:
            self._levels[item.claim.priority].remove(item)

    def settle(self, claim: Claim, spent: float) -> None:
        """Charge what a started run really cost, in prompt tokens, not what was expected of it."""
        if claim.charged:
            self._levels[claim.priority].settle(claim, spent)
            claim.charged = 0.0

    def losers(self, claim: Claim, reading: int = 0) -> Iterator[Item]:
        """Yield the runs that must give up their place to a newcomer, the first to go first.

        All of lower priority, from the last; then, of its own, those of keys that hold more of the
        queue for their weight than the newcomer's key would. `reading` more of that key are on
        their way.
        """
        below = [level for one, level in self._levels.items() if one > claim.priority]
        for level in reversed(below):
            yield from reversed(list(level.order()))
        level = self._levels[claim.priority]
        if level.size:
            own = level.lines.get(claim.key)
            held = reading + (len(own.waiting) if own else 0)
            line = level.greediest()
            if line is not own and (held + 1) / claim.weight < len(line.waiting) / line.weight:
                yield line.waiting[-1]

    def _due(self, now_ns: int) -> _Level[Item]:
        busy = [level for level in self._levels.values() if level.size]
        starved = [level for level in busy[1:] if now_ns - level.turn_ns >= STARVED_NS]
        return min(starved, key=lambda level: level.turn_ns, default=busy[0])
