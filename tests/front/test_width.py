"""How many runs with a deadline are computed together."""

from contextlib import nullcontext, suppress

import pytest

from rayhost.errors import ApiError
from rayhost.front.admission import Admission, Bounds
from rayhost.front.request import Priority
from rayhost.front.width import Width
from tests.front.claims import S, Waiter, waiter


def test_runs_that_began_together_and_were_late_halve_it_once() -> None:
    width = Width(8)
    for _ in range(8):
        width.missed(begun_ns=0, now_ns=10)
    assert int(width) == 4
    width.missed(begun_ns=10, now_ns=20)
    assert int(width) == 2
    for at_ns in range(20, 100):
        width.missed(at_ns, at_ns + 1)
    assert int(width) == 1


def test_it_grows_by_one_for_a_round_of_runs_in_time_and_never_beyond_the_worker() -> None:
    width = Width(8)
    width.missed(0, 1)
    for _ in range(5):
        width.kept(6, 10)
    assert int(width) == 5
    for _ in range(100):
        width.kept(6, 10)
    assert int(width) == 8
    width.most = 3
    assert int(width) == 3
    width.missed(1, 2)
    assert int(width) == 1


def test_it_does_not_grow_where_one_more_would_be_late() -> None:
    width = Width(8)
    width.missed(0, 1)
    for _ in range(100):
        width.kept(8, 10)  # 10 of 10 beside four others
    assert int(width) == 4


def test_a_box_too_slow_for_its_sequences_answers_in_time_what_it_can() -> None:
    """Eight runs together take 16 s each, one alone 2 s; everybody wants an answer within 10."""
    admission = Admission[Waiter](Bounds(64), 8)
    alone_s, step_s = 2.0, 0.05
    running: dict[Waiter, tuple[int, float]] = {}  # since when, and seconds of its own left
    good = 0
    for step in range(round(600 / step_s)):
        now_ns = round(step * step_s * S)
        if step % 10 == 0:  # two a second: four times what it can do
            one = waiter(prompt=10, answer=10, deadline_s=now_ns / S + 10)
            idle = max(0, 8 - len(running))
            with suppress(ApiError):
                admission.offer(one, started=list(running), idle=idle, now_ns=now_ns)
        for one, (since_ns, before_s) in list(running.items()):
            assert one.claim.deadline_ns is not None
            left_s = before_s - step_s / len(running)
            running[one] = since_ns, left_s
            if left_s <= 0:
                del running[one]
                good += 1
                came_ns = one.claim.deadline_ns - 10 * S
                admission.in_time(one.claim, arrived_ns=came_ns, begun_ns=since_ns, now_ns=now_ns)
                half_ns = (since_ns + now_ns) // 2
                admission.speed.learn(
                    prompt=10, answer=10, started_ns=since_ns, first_ns=half_ns, ended_ns=now_ns
                )
            elif now_ns > one.claim.deadline_ns:
                del running[one]
                admission.missed(one, 5, since_ns, now_ns)
        while len(admission.queue):
            one = admission.queue.head(now_ns)
            if admission.late(one, list(running), now_ns):
                admission.queue.remove(one)
            elif len(running) < 8:
                running[admission.queue.pop(now_ns)] = now_ns, alone_s
            else:
                break
    assert good >= 0.85 * 600 / alone_s


def test_a_deadline_that_nobody_could_keep_narrows_nothing() -> None:
    admission = Admission[Waiter](Bounds(64), 8)
    admission.speed.learn(prompt=10, answer=10, started_ns=0, first_ns=S, ended_ns=2 * S)
    for at_s in range(20):
        one = waiter(deadline_s=at_s + 0.1)
        assert not admission.missed(one, 5, at_s * S, at_s * S + S // 10)
    assert int(admission.width) == 8
    assert not admission.missed(waiter(deadline_s=40), 11, 29 * S, 40 * S), "longer than expected"
    assert not admission.missed(waiter(deadline_s=40, priority=Priority.HIGH), 5, 29 * S, 40 * S)
    assert admission.missed(waiter(deadline_s=30), 5, 29 * S, 30 * S)
    assert int(admission.width) == 4


def test_only_those_with_a_deadline_are_fewer() -> None:
    admission = Admission[Waiter](Bounds(64), 8)
    admission.speed.learn(prompt=10, answer=10, started_ns=0, first_ns=S, ended_ns=2 * S)
    for at_s in range(0, 9, 3):
        admission.missed(waiter(deadline_s=at_s + 3), 5, at_s * S, (at_s + 3) * S)
    assert int(admission.width) == 1
    hurried = waiter(deadline_s=5)
    for started, idle, refused in (
        ([], 8, False),
        ([waiter()] * 7, 1, False),
        ([hurried], 7, True),
    ):
        for one in (waiter(deadline_s=3), waiter(), waiter(deadline_s=3, priority=Priority.HIGH)):
            expected = (
                pytest.raises(ApiError)
                if refused and one.claim.deadline_ns and one.claim.priority is Priority.NORMAL
                else nullcontext()
            )
            with expected:
                admission.offer(one, started=started, idle=idle, now_ns=0)
                admission.queue.remove(one)
