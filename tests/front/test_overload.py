"""Four times the work that the box can do, in virtual time: what is answered, and to whom."""

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from rayhost.errors import ApiError
from rayhost.front.admission import Admission, Bounds
from rayhost.front.request import Priority
from tests.front.claims import S, Waiter, waiter

SEQUENCES = 8
LOOK_AHEAD = 2
PREFILL_NS = 2_000_000  # a prompt token, and a token of an answer, beside seven others
DECODE_NS = 25_000_000
PROMPT = 100
ANSWER = 40  # on average
CAPACITY = SEQUENCES * S / (PROMPT * PREFILL_NS + ANSWER * DECODE_NS)  # runs a second


@dataclass
class Box:
    """A worker that computes `SEQUENCES` runs at once, and a client for each that it is sent."""

    spread: float  # of the lengths of answers about their mean, as a share of it
    bounds: Bounds = field(default_factory=lambda: Bounds(128))

    def __post_init__(self) -> None:
        self.admission = Admission[Waiter](self.bounds, SEQUENCES)
        self.chance = random.Random(7)
        self.given: list[Waiter] = []
        self.ends: list[tuple[int, int, Waiter, int, int]] = []
        self.computing = 0
        self.good: list[tuple[int, Waiter]] = []
        self.lost = Counter[str]()
        self._number = 0

    def arrive(self, one: Waiter, now_ns: int) -> None:
        self.run_until(now_ns)
        idle = max(0, SEQUENCES - len(self.given))
        one.claim.most = 2 * ANSWER
        one.claim.answer = self.admission.speed.expected(one.claim.most)
        try:
            self.admission.offer(one, started=self.given, idle=idle, now_ns=now_ns)
        except ApiError:
            self.lost["refused"] += 1
        self._start(now_ns)

    def run_until(self, now_ns: int) -> None:
        while self.ends and self.ends[0][0] <= now_ns:
            at_ns, _, one, answer, began_ns = heapq.heappop(self.ends)
            self.given.remove(one)
            self.computing -= 1
            self.admission.ended(one, PROMPT, answer)
            if one.claim.deadline_ns is not None and at_ns > one.claim.deadline_ns:
                self.lost["late"] += 1
            else:
                self.good.append((at_ns, one))
                self.admission.rate.ended(at_ns)
                self.admission.speed.learn(
                    prompt=PROMPT,
                    answer=answer,
                    started_ns=began_ns,
                    first_ns=began_ns + PROMPT * PREFILL_NS,
                    ended_ns=at_ns,
                )
            self._start(at_ns)

    def _start(self, now_ns: int) -> None:
        queue = self.admission.queue
        while len(queue) and len(self.given) < SEQUENCES + LOOK_AHEAD:
            error = self.admission.late(queue.head(now_ns), self.given, now_ns)
            one = queue.pop(now_ns)
            if error:
                self.lost["dropped"] += 1
            else:
                self.given.append(one)
        for one in self.given[self.computing : SEQUENCES]:
            answer = round(ANSWER * self.chance.uniform(1 - self.spread, 1 + self.spread))
            takes_ns = PROMPT * PREFILL_NS + answer * DECODE_NS
            ends_ns = now_ns + takes_ns
            if one.claim.deadline_ns is not None and ends_ns > one.claim.deadline_ns:
                ends_ns = one.claim.deadline_ns + 1  # then it is cancelled
            self._number += 1
            heapq.heappush(self.ends, (ends_ns, self._number, one, answer, now_ns))
            self.computing += 1


@pytest.mark.parametrize("spread", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("timeout_s", [3, 10])
def test_at_four_times_the_capacity_the_box_does_what_it_can_in_time(
    spread: float, timeout_s: int
) -> None:
    box = Box(spread)
    seconds = 140
    step_ns = round(S / (4 * CAPACITY))
    for n in range(round(4 * CAPACITY * seconds)):
        now_ns = n * step_ns
        box.arrive(waiter(prompt=PROMPT, deadline_s=now_ns / S + timeout_s), now_ns)
    # The first answers teach it how fast it is.
    goodput = sum(at_ns > 20 * S for at_ns, _ in box.good) / (seconds - 20) / CAPACITY
    assert goodput >= 0.95
    assert box.lost["late"] <= 0.03 * len(box.good)
    assert box.lost["refused"] > 20 * box.lost["dropped"], "told on arrival, not after a wait"


@pytest.mark.parametrize("weights", [(3.0, 1.0), (2.0, 1.0)])
@pytest.mark.parametrize("rates", [(2.0, 2.0), (3.0, 1.5), (1.5, 6.0)])  # times the capacity
def test_two_keys_that_flood_the_box_are_answered_by_their_weights(
    weights: tuple[float, float], rates: tuple[float, float]
) -> None:
    box = Box(0.5, Bounds(32))
    arrivals = sorted(
        (round(n * S / (rate * CAPACITY)), key, weight)
        for key, weight, rate in zip("ab", weights, rates, strict=True)
        for n in range(round(rate * CAPACITY * 300))
    )
    for now_ns, key, weight in arrivals:
        box.arrive(waiter(key=key, weight=weight, prompt=PROMPT), now_ns)
    answered = Counter(one.claim.key for _, one in box.good)
    assert answered["a"] / answered["b"] == pytest.approx(weights[0] / weights[1], rel=0.1)


def test_high_priority_goes_before_a_flood_of_low() -> None:
    box = Box(0.5)
    arrivals = [(n * S // 20, Priority.LOW) for n in range(20 * 120)]
    arrivals += [(n * S * 2, Priority.HIGH) for n in range(60)]
    came: dict[Waiter, int] = {}
    for now_ns, priority in sorted(arrivals):
        one = waiter(prompt=PROMPT, priority=priority, deadline_s=now_ns / S + 10)
        came[one] = now_ns
        box.arrive(one, now_ns)
    took = [at - came[one] for at, one in box.good if one.claim.priority is Priority.HIGH]
    assert len(took) >= 58
    # A sequence is free every 0.15 s, and an answer takes at most 1.7 s: even without preemption.
    assert max(took) < 3 * S
