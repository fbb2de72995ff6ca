"""The order of service: priorities, shares of keys, and that nothing starves."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhost.front.fair import STARVED_NS, FairQueue, cost
from rayhost.front.request import Priority
from tests.front.claims import Waiter, waiter


def filled(*waiters: Waiter) -> FairQueue[Waiter]:
    queue = FairQueue[Waiter]()
    for one in waiters:
        queue.push(one, 0)
    return queue


def names(queue: FairQueue[Waiter], now_ns: int = 0) -> str:
    return "".join(queue.pop(now_ns).name for _ in range(len(queue)))


def test_higher_priority_goes_first_and_equals_go_in_order_of_arrival() -> None:
    queue = filled(
        waiter("a", priority=Priority.BATCH),
        waiter("b", priority=Priority.LOW),
        waiter("c"),
        waiter("d", priority=Priority.HIGH),
        waiter("e"),
        waiter("f", priority=Priority.HIGH),
    )
    assert names(queue) == "dfceba"


def test_a_key_with_little_work_does_not_wait_behind_one_with_much() -> None:
    queue = filled(*(waiter(n, key="many") for n in "abcd"), waiter("x", key="few"))
    assert names(queue) == "axbcd"


def test_the_time_that_a_key_was_away_is_no_credit() -> None:
    queue = filled(*(waiter("a", key="a") for _ in range(30)))
    for _ in range(20):
        queue.settle(queue.pop(0).claim, 40)
    for _ in range(10):
        queue.push(waiter("b", key="b"), 0)
    assert abs(names(queue)[:10].count("a") - 5) <= 1


def test_nobody_pays_for_the_time_when_nobody_else_was_there() -> None:
    queue = filled(*(waiter("a", key="a") for _ in range(20)))
    for _ in range(20):
        queue.settle(queue.pop(0).claim, 40)
    for name in "ba" * 5:
        queue.push(waiter(name, key=name), 0)
    assert names(queue) == "ba" * 5


def test_a_key_that_has_many_at_work_lets_a_newcomer_catch_up() -> None:
    queue = filled(*(waiter("a", key="a") for _ in range(8)))
    for _ in range(4):
        queue.pop(0)
    for _ in range(8):
        queue.push(waiter("b", key="b"), 0)
    assert names(queue)[:8] == "bbbbabab"


@pytest.mark.parametrize("weights", [(3.0, 1.0), (1.0, 3.0), (0.3, 0.1), (300.0, 100.0)])
@pytest.mark.parametrize("in_flight", [1, 8, 32])
@pytest.mark.parametrize("expected", [1, 60, 2000])  # the mean answer has 60
def test_keys_that_always_wait_get_tokens_by_weight_whatever_was_expected_of_them(
    weights: tuple[float, float], in_flight: int, expected: int
) -> None:
    chance = random.Random(1)
    queue = FairQueue[Waiter]()
    running: list[Waiter] = []
    tokens = Counter[str]()

    def come(key: str, weight: float) -> None:
        queue.push(waiter(key=key, weight=weight, answer=expected), 0)

    for key, weight in zip("ab", weights, strict=True):
        for _ in range(4):
            come(key, weight)
    for _ in range(6000):
        while len(running) < in_flight:
            running.append(queue.pop(0))
            come(running[-1].claim.key, running[-1].claim.weight)
        ended = running.pop(chance.randrange(len(running)))
        # One key's answers are longer than the other's, too.
        answer = chance.randint(1, 119) if ended.claim.key == "a" else chance.randint(1, 239)
        queue.settle(ended.claim, cost(ended.claim.prompt, answer))
        tokens[ended.claim.key] += round(cost(ended.claim.prompt, answer))
    assert tokens["a"] / tokens["b"] == pytest.approx(weights[0] / weights[1], rel=0.1)


@pytest.mark.parametrize("priority", [Priority.NORMAL, Priority.LOW, Priority.BATCH])
def test_nothing_starves_however_much_comes_that_is_higher(priority: Priority) -> None:
    queue = filled(*(waiter("x", priority=priority) for _ in range(3)))
    turns = []
    for second in range(60):
        queue.push(waiter("high", priority=Priority.HIGH), second * 10**9)
        if queue.pop(second * 10**9).name == "x":
            turns.append(second)
    pause = STARVED_NS // 10**9
    assert turns == [pause, 2 * pause, 3 * pause]


def test_a_starved_backlog_gets_one_turn_and_not_all_of_them() -> None:
    queue = filled(*(waiter("x", priority=Priority.LOW) for _ in range(50)))
    for _ in range(20):
        queue.push(waiter("h", priority=Priority.HIGH), STARVED_NS)
    assert names(queue, STARVED_NS)[:21] == "x" + 20 * "h"


def test_a_run_whose_worker_died_goes_before_everybody_else_and_is_charged_once() -> None:
    queue = filled(waiter("a", key="a"), waiter("b", key="b"))
    lost = queue.pop(0)
    queue.push(waiter("h", priority=Priority.HIGH), 0)
    charged = lost.claim.charged
    queue.returned(lost)
    assert queue.head(0) is lost
    assert names(queue) == "ahb"
    assert lost.claim.charged == charged


def test_a_run_that_gave_way_is_the_next_of_its_priority() -> None:
    queue = filled(waiter("a"), waiter("b"), waiter("c", key="other"))
    gave_way = queue.pop(0)
    queue.push(waiter("h", priority=Priority.HIGH), 0)
    queue.yielded(gave_way, 0)
    assert gave_way.claim.charged == 0
    assert names(queue) == "hacb"


def test_lower_priorities_lose_their_places_first_and_from_the_end() -> None:
    queue = filled(
        waiter("a", priority=Priority.HIGH),
        waiter("b"),
        waiter("c", priority=Priority.LOW),
        waiter("d", priority=Priority.LOW),
        waiter("e", priority=Priority.BATCH),
    )

    def losers(priority: Priority) -> str:
        return "".join(one.name for one in queue.losers(waiter(priority=priority).claim))

    assert losers(Priority.HIGH) == "edcb"
    assert losers(Priority.NORMAL) == "edc"
    assert losers(Priority.LOW) == "e"
    assert losers(Priority.BATCH) == ""


@pytest.mark.parametrize(
    ("weight", "reading", "loses"), [(1.0, 0, "d"), (1.0, 2, "d"), (1.0, 3, ""), (0.25, 0, "")]
)
def test_of_equals_the_key_with_most_for_its_weight_loses_its_last_place(
    weight: float, reading: int, loses: str
) -> None:
    queue = filled(*(waiter(n, key="many") for n in "abcd"))
    newcomer = waiter(key="few", weight=weight)
    assert "".join(one.name for one in queue.losers(newcomer.claim, reading)) == loses
    assert not list(queue.losers(waiter(key="many").claim))


def test_removing_one_that_does_not_wait_is_an_error() -> None:
    queue = filled(waiter(), waiter())
    with pytest.raises(ValueError, match="not in"):
        queue.remove(waiter())
    assert len(queue) == 2


Come = st.tuples(
    st.sampled_from(list(Priority)),
    st.sampled_from("abc"),
    st.integers(1, 50),
    st.sampled_from(["push", "pop", "remove", "give way", "lose the worker", "end"]),
)


@given(st.lists(Come, max_size=60))
def test_the_order_told_is_the_order_of_turns_and_nobody_is_lost_or_doubled(
    turns: list[tuple[Priority, str, int, str]],
) -> None:
    queue = FairQueue[Waiter]()
    waiting: set[Waiter] = set()
    running: list[Waiter] = []
    for priority, key, answer, what in turns:
        if what == "push":
            arriving = waiter(key=key, weight=ord(key) - 96, priority=priority, answer=answer)
            queue.push(arriving, 0)
            waiting.add(arriving)
        elif what == "pop" and waiting:
            head = queue.head(0)
            assert queue.pop(0) is head
            running.append(head)
            waiting.remove(head)
        elif what == "remove" and waiting:
            gone = list(queue)[answer % len(queue)]
            queue.remove(gone)
            waiting.remove(gone)
        elif running and what != "remove":
            one = running.pop(answer % len(running))
            if what == "give way":
                queue.yielded(one, 0)
                waiting.add(one)
            elif what == "lose the worker":
                queue.returned(one)
                waiting.add(one)
            else:
                queue.settle(one.claim, answer)
        order = list(queue)
        assert len(order) == len(queue) == len(waiting)
        assert set(order) == waiting
    told = list(queue)
    assert [queue.pop(0) for _ in told] == told
