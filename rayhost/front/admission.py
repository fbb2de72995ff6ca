"""Who may wait for a model, who must go, and who starts next. Pure: the lane tells it the time.

Invariants: the queue stays within its bounds; a run gives up its place only to one of higher
priority, or to one whose key holds less than its share; and while a sequence is free nobody is
refused for an estimate, so a wrong estimate is always measured anew; of those with a deadline
(`width`) while fewer run than are known to end in time.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic

from rayhost.errors import ApiError, DeadlineExceeded, Overloaded, QueueFull
from rayhost.front.drain_rate import MAX_RETRY_S, DrainRate
from rayhost.front.fair import Claim, FairQueue, Item, cost
from rayhost.front.request import Priority, Standing
from rayhost.front.speed import Speed
from rayhost.front.width import Width

# Runs that began together end together, so waits come in lumps: what is expected to end just in
# time often ends late, and then all that was computed for it is lost.
MARGIN = 1.25


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may wait for one model."""

    runs: int
    prompt_tokens: int = 1 << 62
    wait_s: float = float("inf")  # expected; does not bind the priority `batch`


@dataclass(frozen=True, slots=True)
class Refused(Generic[Item]):
    """A waiting run that must go, and why."""

    item: Item
    error: ApiError


class Admission(Generic[Item]):
    """The queue of a model. `started` is what its worker was given, in the order it was.

    `width.most` of those are computed together; the lane keeps it up to date.
    """

    def __init__(self, bounds: Bounds, sequences: int) -> None:
        self.queue: FairQueue[Item] = FairQueue()
        self.speed = Speed()
        self.rate = DrainRate()
        self._bounds = bounds
        self.width = Width(sequences)
        self._reading: Counter[tuple[Priority, str]] = Counter()

    def limit(self, bounds: Bounds) -> None:
        """Refuse by other bounds from now on."""
        self._bounds = bounds

    # Coming.

    def read(
        self, claim: Claim, idle: int, *, loading_ns: float | None = None, now_ns: int = 0
    ) -> None:
        """A request comes whose prompt is yet to be read; `idle` sequences are free.

        Without a worker it is `loading_ns` until there is one. Raises QueueFull or Overloaded where
        it could not wait anyway. Else call `was_read` later.
        """
        # Lower priorities would make room, so they do not count.
        ahead = sum(self.queue.size(one) for one in Priority if one <= claim.priority)
        ahead += sum(n for (one, _), n in self._reading.items() if one <= claim.priority)
        own = self._reading[claim.priority, claim.key]
        if ahead >= self._bounds.runs + idle and not any(self.queue.losers(claim, own)):
            raise self._full(claim)
        if loading_ns is not None:
            before = [one for one in self.queue if one.claim.priority <= claim.priority]
            unread = ahead - sum(self.queue.size(one) for one in Priority if one <= claim.priority)
            runs = [*map(self._run_ns, before), *[self.speed.usual_ns] * unread]
            wait_ns = loading_ns + _turn_ns(self.width.most, runs, [])
            self._check_time(claim, wait_ns, len(runs), loading_ns, now_ns)
        self._reading[claim.priority, claim.key] += 1

    def was_read(self, claim: Claim) -> None:
        """That prompt was read, or never will be."""
        self._reading[claim.priority, claim.key] -= 1
        self._reading += Counter()  # drops what is zero

    def offer(
        self,
        item: Item,
        *,
        started: Sequence[Item],
        idle: int,
        now_ns: int,
        loading_ns: float = 0.0,
    ) -> list[Refused[Item]]:
        """Queue a run; return the waiting ones that it displaced, no longer in the queue.

        Raises QueueFull, Overloaded or DeadlineExceeded when it must not wait.
        """
        claim = item.claim
        displaced = self._make_room(claim, idle)
        self.queue.push(item, now_ns)
        try:
            if not idle or (_narrowed(claim) and len(_hurried(started)) >= int(self.width)):
                before = [one for one in self._ahead(item) if one not in displaced]
                wait_ns = loading_ns + self._wait_ns(claim, before, started)
                self._check_time(claim, wait_ns, len(before), loading_ns, now_ns)
        except ApiError:
            self.queue.remove(item)
            raise
        for one in displaced:
            self.queue.remove(one)
        return [Refused(one, self._displacement(one.claim, claim)) for one in displaced]

    def _make_room(self, claim: Claim, idle: int) -> list[Item]:
        runs = len(self.queue) + 1 - self._bounds.runs - idle
        tokens = sum(one.claim.prompt for one in self.queue) + claim.prompt
        over = tokens - self._bounds.prompt_tokens if len(self.queue) else 0
        displaced: list[Item] = []
        if runs > 0 or over > 0:
            for one in self.queue.losers(claim, self._reading[claim.priority, claim.key]):
                displaced.append(one)
                runs, over = runs - 1, over - one.claim.prompt
                if runs <= 0 and over <= 0:
                    return displaced
            raise self._full(claim)
        return displaced

    def _check_time(
        self, claim: Claim, wait_ns: float, ahead: int, loading_ns: float, now_ns: int
    ) -> None:
        if claim.priority is not Priority.BATCH and wait_ns > self._bounds.wait_s * 1e9:
            raise self._overloaded(
                ahead,
                loading_ns,
                f"about {wait_ns / 1e9:.1f} s from its turn, and {self._bounds.wait_s:g} s is the "
                "longest wait",
            )
        if claim.deadline_ns is not None:
            takes_ns = wait_ns + self.speed.run_ns(claim.prompt, self.speed.at_worst(claim.most))
            left_ns = claim.deadline_ns - now_ns
            if takes_ns * MARGIN > left_ns:
                raise self._overloaded(
                    ahead,
                    loading_ns,
                    f"answered in about {takes_ns / 1e9:.1f} s, with {left_ns / 1e9:.1f} s left of "
                    "its time-out",
                )

    # Waiting.

    def standing(self, item: Item, started: Sequence[Item], loading_ns: float = 0.0) -> Standing:
        """Return the place of a waiting run."""
        ahead = list(self._ahead(item))
        wait_ns = loading_ns + self._wait_ns(item.claim, ahead, started)
        return Standing(len(ahead) + 1, wait_ns / 1e9 if wait_ns else None)

    def _ahead(self, item: Item) -> Iterator[Item]:
        for one in self.queue:
            if one is item:
                return
            yield one

    def _wait_ns(self, claim: Claim, ahead: Sequence[Item], started: Sequence[Item]) -> float:
        """Return how long until the one behind `ahead` has a sequence; 0 if unknown.

        One with a deadline is also reckoned to be one of as few as the width lets run together.
        """
        wait_ns = self._turn(self.width.most, ahead, started)
        if not _narrowed(claim):
            return wait_ns
        return max(wait_ns, self._turn(int(self.width), _hurried(ahead), _hurried(started)))

    def _turn(self, together: int, ahead: Sequence[Item], started: Sequence[Item]) -> float:
        return _turn_ns(
            together, [self._run_ns(one) for one in ahead], [self._run_ns(one) for one in started]
        )

    def _run_ns(self, item: Item) -> float:
        return self.speed.run_ns(item.claim.prompt, item.claim.answer)

    # Starting and ending.

    def late(self, item: Item, started: Sequence[Item], now_ns: int) -> DeadlineExceeded | None:
        """Return why the next run is not worth starting; None where it is.

        Where nothing else waits it is always worth a try.
        """
        deadline_ns = item.claim.deadline_ns
        if deadline_ns is None or (now_ns < deadline_ns and len(self.queue) < 2):
            return None
        ends_ns = now_ns + self._wait_ns(item.claim, [], started) + self._run_ns(item)
        if ends_ns <= deadline_ns:
            return None
        return DeadlineExceeded(
            "the request waited until its time-out was over"
            if now_ns >= deadline_ns
            else "the request waited until too little of its time-out was left to answer it",
            retry_after=self.rate.retry_after(len(self.queue)),
        )

    def missed(self, item: Item, answered: int, begun_ns: int, now_ns: int) -> bool:
        """A run was not answered in time; tell whether fewer are let run together for it.

        One that could not have been even alone says nothing, nor one whose answer turned out
        longer than those before: `answered` is how many tokens it had.
        """
        deadline_ns = item.claim.deadline_ns or now_ns
        possible = (deadline_ns - begun_ns) * int(self.width) >= self._run_ns(item)
        if not possible or answered > item.claim.answer or not _narrowed(item.claim):
            return False
        before = int(self.width)
        self.width.missed(begun_ns, now_ns)
        return int(self.width) < before

    def in_time(self, claim: Claim, *, arrived_ns: int, begun_ns: int, now_ns: int) -> None:
        """A run was answered."""
        if claim.deadline_ns is not None and _narrowed(claim):
            self.width.kept(now_ns - begun_ns, claim.deadline_ns - arrived_ns)

    def ended(self, item: Item, prompt: int, answer: int) -> None:
        """Charge a run's key for what was computed of it; for one that never started, nothing."""
        self.queue.settle(item.claim, cost(prompt, answer))

    # Refusing.

    def _full(self, claim: Claim) -> ApiError:
        retry_after = self.rate.retry_after(len(self.queue))
        waiting = len(self.queue) + self._reading.total()
        others = [one for one in self.queue if one.claim.key != claim.key]
        others_read = sum(n for (_, key), n in self._reading.items() if key != claim.key)
        held = waiting - len(others) - others_read
        weights = {one.claim.key: one.claim.weight for one in others} | {claim.key: claim.weight}
        share = claim.weight / sum(weights.values())
        said = f"{waiting} requests wait already, and the queue holds {self._bounds.runs}"
        if self._bounds.prompt_tokens < 1 << 62:
            said += f" or {self._bounds.prompt_tokens} prompt tokens"
        if held >= share * waiting:
            return QueueFull(f"{said}; {held} of them are yours", retry_after=retry_after)
        return Overloaded(f"the server is busy: {said}", retry_after=retry_after, code="queue_full")

    def _overloaded(self, ahead: int, loading_ns: float, why: str) -> Overloaded:
        loading_s = min(MAX_RETRY_S, math.ceil(loading_ns / 1e9))
        busy = "the model is being loaded" if loading_ns else "the server is busy"
        return Overloaded(
            f"{busy}: this request would be at position {ahead + 1}, {why}",
            retry_after=max(loading_s, self.rate.retry_after(ahead + 1)),
        )

    def _displacement(self, loser: Claim, winner: Claim) -> ApiError:
        retry_after = self.rate.retry_after(len(self.queue))
        if winner.priority < loser.priority:
            return Overloaded(
                f"the queue is full, and a request of priority {winner.priority.name.lower()} "
                f"took the place of this one of priority {loser.priority.name.lower()}",
                code="displaced",
                retry_after=retry_after,
            )
        return QueueFull(
            "the queue is full, and this key holds more than its share of it",
            code="displaced",
            retry_after=retry_after,
        )


def _turn_ns(together: int, ahead: Sequence[float], started: Sequence[float]) -> float:
    """Return how long until the one behind `ahead` has a sequence, by what each run takes.

    Of as many as run together one becomes free in each such part of a run's time. While fewer were
    started the first ones that wait take the free places.
    """
    runs = [*started, *ahead]
    if len(runs) < together:
        return 0.0
    running = max(together, len(started))
    first = sum(runs[:running]) / running
    return (first + sum(runs[together:])) / together


def _narrowed(claim: Claim) -> bool:
    """Tell whether the width counts for a run: a deadline, but not the highest priority."""
    return claim.deadline_ns is not None and claim.priority is not Priority.HIGH


def _hurried(runs: Sequence[Item]) -> list[Item]:
    return [one for one in runs if _narrowed(one.claim)]
