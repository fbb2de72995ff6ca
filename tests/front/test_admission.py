"""Who may wait: bounds, displacement, estimates and deadlines, and what a refusal says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhost.errors import ApiError, DeadlineExceeded, Overloaded, QueueFull
from rayhost.front.admission import Admission, Bounds
from rayhost.front.request import Priority, Standing
from tests.front.claims import S, Waiter, waiter

HIGH, NORMAL, LOW, BATCH = Priority


def make(
    runs: int = 3, *, prompt_tokens: int = 10_000, wait_s: float = 1000, run_s: float = 0
) -> Admission[Waiter]:
    """One sequence; a run of 10 and 10 tokens takes `run_s`, half of it for the prompt."""
    admission = Admission[Waiter](Bounds(runs, prompt_tokens, wait_s), 1)
    if run_s:
        admission.speed.learn(
            prompt=10,
            answer=11,
            started_ns=0,
            first_ns=round(run_s * S / 2),
            ended_ns=round(run_s * S),
        )
        for second in range(5):
            admission.rate.ended(round(second * run_s * S))
    return admission


BUSY = [waiter("running")]


def offer(
    admission: Admission[Waiter], one: Waiter, started: list[Waiter] = BUSY
) -> list[tuple[str, str, int]]:
    idle = max(0, admission.width.most - len(started))
    displaced = admission.offer(one, started=started, idle=idle, now_ns=0)
    return [(gone.item.name, gone.error.code, gone.error.status) for gone in displaced]


def fill(admission: Admission[Waiter], *waiters: Waiter) -> None:
    for one in waiters:
        assert offer(admission, one) == []


# Bounds


def test_a_key_that_fills_the_queue_alone_is_refused_as_its_own_doing() -> None:
    admission = make(3, run_s=2)
    fill(admission, waiter(), waiter(), waiter())
    with pytest.raises(QueueFull, match=r"3 requests wait already.*holds 3.*3 of them") as caught:
        offer(admission, waiter())
    assert (caught.value.status, caught.value.retry_after) == (429, 6)
    assert len(admission.queue) == 3


def test_a_key_within_its_share_of_a_full_queue_is_told_that_the_box_is_busy() -> None:
    admission = make(3)
    fill(admission, *(waiter(key=key, priority=HIGH) for key in "abc"))
    with pytest.raises(Overloaded) as caught:
        offer(admission, waiter(key="d"))
    assert (caught.value.status, caught.value.code) == (503, "queue_full")


def test_a_higher_priority_pushes_the_lowest_out_and_never_the_reverse() -> None:
    admission = make(2)
    fill(admission, waiter("normal"), waiter("low", priority=LOW))
    with pytest.raises(ApiError):
        offer(admission, waiter(priority=LOW))
    with pytest.raises(ApiError):
        offer(admission, waiter(priority=BATCH))
    assert offer(admission, waiter("high", priority=HIGH)) == [("low", "displaced", 503)]
    assert [one.name for one in admission.queue] == ["high", "normal"]


def test_a_key_over_its_share_gives_place_to_one_below_it() -> None:
    admission = make(4)
    fill(admission, *(waiter(name, key="many") for name in "abcd"))
    assert offer(admission, waiter("x", key="few")) == [("d", "displaced", 429)]
    assert offer(admission, waiter("y", key="few")) == [("c", "displaced", 429)]
    with pytest.raises(QueueFull):
        offer(admission, waiter("z", key="few"))
    with pytest.raises(QueueFull):
        offer(admission, waiter("e", key="many"))


def test_prompt_tokens_are_bounded_too_and_as_many_go_as_must() -> None:
    admission = make(100, prompt_tokens=100)
    fill(admission, *(waiter(name, prompt=30, priority=LOW) for name in "abc"))
    with pytest.raises(QueueFull, match="100 prompt tokens"):
        offer(admission, waiter(prompt=11, priority=LOW))
    assert [gone[0] for gone in offer(admission, waiter("x", prompt=50))] == ["c", "b"]
    fill(admission, waiter("y", prompt=20))


def test_a_prompt_over_the_bound_is_taken_by_an_empty_queue() -> None:
    fill(make(100, prompt_tokens=100), waiter(prompt=101))


def test_a_run_that_can_start_at_once_is_not_waiting() -> None:
    admission = make(0)
    assert offer(admission, waiter(), started=[]) == []
    assert admission.queue.pop(0)
    with pytest.raises(QueueFull):
        offer(admission, waiter())


def test_prompts_on_their_way_hold_places() -> None:
    admission = make(2)
    reading = [waiter().claim for _ in range(3)]
    admission.read(reading[0], 0)
    admission.read(reading[1], 0)
    with pytest.raises(QueueFull, match="2 requests wait already"):
        admission.read(reading[2], 0)
    admission.read(waiter(priority=HIGH).claim, 0)  # before it, the others go
    admission.was_read(reading[0])
    with pytest.raises(QueueFull):
        admission.read(reading[2], 0)
    admission.was_read(reading[1])
    with pytest.raises(ApiError):
        admission.read(waiter(priority=LOW, key="b").claim, -1)
    admission.read(reading[2], 0)


# Estimates


def test_a_wait_is_the_work_ahead_over_the_sequences() -> None:
    admission = make(100, run_s=2)
    started = [waiter() for _ in range(6)]
    admission.width.most = 4
    first, second = waiter(), waiter(prompt=20, answer=20)
    fill(admission, first, second)
    third = waiter()
    fill(admission, third)
    # Of 4 sequences one is free each half second; two that were started wait themselves.
    assert admission.standing(first, started).position == 1
    assert admission.standing(first, started).estimate_s == pytest.approx(1.5, rel=0.1)
    assert admission.standing(third, started).estimate_s == pytest.approx(3.0, rel=0.1)
    assert admission.standing(third, started).position == 3


def test_before_anything_was_measured_no_wait_is_told() -> None:
    admission = make()
    one = waiter()
    fill(admission, one)
    assert admission.standing(one, BUSY) == Standing(1, None)


@pytest.mark.parametrize(
    ("started", "ahead", "waits_s"),
    [(0, 0, None), (0, 3, None), (2, 1, None), (0, 4, 0.5), (2, 2, 0.5), (1, 7, 2.5), (4, 2, 1.5)],
)
def test_while_fewer_run_than_can_the_first_that_wait_take_the_free_places(
    started: int, ahead: int, waits_s: float | None
) -> None:
    admission = make(100, run_s=2)
    admission.width.most = 4
    runs = [waiter() for _ in range(ahead + 1)]
    for one in runs:
        admission.queue.push(one, 0)
    told = admission.standing(runs[-1], [waiter() for _ in range(started)]).estimate_s
    assert told == (None if waits_s is None else pytest.approx(waits_s, rel=0.15))


# While a model loads


@pytest.mark.parametrize(
    ("lost", "unread", "deadline_s", "refused"),
    [
        (0, 0, 11, False),
        (0, 0, 5, True),
        (0, 0, None, False),
        (2, 0, 17, False),
        (2, 0, 14, True),  # two of 2 s, one after the other, and a margin
        (0, 2, 14, True),  # nobody knows how long those are: like the ones before
        (0, 2, 18, False),
        (7, 0, None, True),  # over the longest wait
    ],
)
def test_who_cannot_wait_for_a_model_that_loads_is_refused_before_it_is_there(
    lost: int, unread: int, deadline_s: float | None, refused: bool
) -> None:
    admission = make(100, wait_s=20, run_s=2)
    for _ in range(lost):
        admission.queue.returned(waiter())
    for _ in range(unread):
        admission.read(waiter().claim, 0, loading_ns=8 * S)
    claim = waiter(deadline_s=deadline_s, prompt=0, answer=0).claim
    if not refused:
        admission.read(claim, 0, loading_ns=8 * S)
        return
    with pytest.raises(Overloaded, match="the model is being loaded") as caught:
        admission.read(claim, 0, loading_ns=8 * S)
    assert caught.value.retry_after is not None
    assert caught.value.retry_after >= 8


def test_a_batch_waits_for_a_model_however_long() -> None:
    admission = make(100, wait_s=5, run_s=2)
    admission.read(waiter(priority=BATCH).claim, 0, loading_ns=90 * S)
    with pytest.raises(Overloaded) as caught:
        admission.read(waiter().claim, 0, loading_ns=90 * S)
    assert caught.value.retry_after == 60


def test_a_wait_over_the_bound_is_refused_but_to_batches() -> None:
    admission = make(100, wait_s=5, run_s=2)
    fill(admission, waiter(), waiter())
    with pytest.raises(
        Overloaded, match=r"at position 3, about 6\.0.* 5 s is the longest"
    ) as caught:
        offer(admission, waiter())
    assert caught.value.retry_after == 6
    assert len(admission.queue) == 2
    fill(admission, waiter(priority=HIGH), waiter(priority=BATCH))


def test_what_cannot_be_answered_in_time_is_refused_on_arrival() -> None:
    admission = make(100, run_s=2)
    fill(admission, waiter(), waiter())
    with pytest.raises(
        Overloaded, match=r"position 3, answered in about 8\.0 s.*9\.0 s left"
    ) as caught:
        offer(admission, waiter(deadline_s=9))
    assert (caught.value.status, caught.value.code) == (503, "overloaded")
    fill(admission, waiter(deadline_s=12), waiter(deadline_s=9, priority=HIGH))


def test_while_a_sequence_is_free_an_estimate_refuses_nobody() -> None:
    admission = make(run_s=60)
    assert offer(admission, waiter(deadline_s=1), started=[]) == []


# Starting


@pytest.mark.parametrize(
    ("deadline_s", "neighbours", "now_s", "late"),
    [
        (None, 1, 99, False),
        (5, 1, 3, True),  # a run takes 2 s, and the one before it as long
        (5, 1, 0, False),
        (5, 0, 3, False),  # nobody else wants the sequence
        (5, 0, 5, True),
    ],
)
def test_a_run_that_can_no_longer_be_answered_in_time_is_not_started(
    deadline_s: float | None, neighbours: int, now_s: int, late: bool
) -> None:
    admission = make(run_s=2)
    one = waiter(deadline_s=deadline_s)
    fill(admission, one, *(waiter() for _ in range(neighbours)))
    error = admission.late(one, BUSY, now_s * S)
    assert isinstance(error, DeadlineExceeded) == late


def test_a_run_that_never_started_is_not_charged() -> None:
    admission = make()
    one = waiter()
    fill(admission, one)
    admission.ended(one, 1000, 1000)
    assert one.claim.charged == 0


Come = st.tuples(
    st.sampled_from(list(Priority)),
    st.sampled_from("abc"),
    st.integers(1, 60),
    st.one_of(st.none(), st.integers(1, 30)),
    st.booleans(),
)


@given(st.integers(0, 6), st.lists(Come, max_size=50))
def test_whatever_comes_the_queue_stays_within_its_bounds_and_nobody_is_lost(
    runs: int, turns: list[tuple[Priority, str, int, int | None, bool]]
) -> None:
    admission = make(runs, prompt_tokens=150, wait_s=12, run_s=1)
    waiting: set[Waiter] = set()
    retries: list[int | None] = []
    for priority, key, prompt, deadline_s, pop in turns:
        newcomer = waiter(key=key, prompt=prompt, priority=priority, deadline_s=deadline_s)
        try:
            displaced = admission.offer(newcomer, started=BUSY, idle=0, now_ns=0)
        except ApiError as error:
            retries.append(error.retry_after)
        else:
            waiting.add(newcomer)
            for gone in displaced:
                assert gone.item.claim.priority >= priority
                waiting.remove(gone.item)
        assert set(admission.queue) == waiting
        assert len(waiting) <= runs
        assert sum(one.claim.prompt for one in waiting) <= 150 or len(waiting) == 1
        if pop and waiting:
            waiting.remove(admission.queue.pop(0))
    assert all(retry is not None and retry >= 1 for retry in retries)
