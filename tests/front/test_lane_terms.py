"""A lane and the terms of its requests: priorities, shares, deadlines, displacement, places."""

import asyncio
import random
from collections import Counter

import pytest
from msgspec.structs import replace

from rayhost.errors import ApiError, DeadlineExceeded, Overloaded, QueueFull
from rayhost.front import preemption
from rayhost.front.admission import Bounds
from rayhost.front.lane import LOOK_AHEAD, Lane
from rayhost.front.request import GenerateRequest, Piece, Priority, Standing, Terms, TokenPrompt
from rayhost.front.run import ActiveRun
from rayhost.ipc.messages import Finished
from rayhost.metrics import Metrics
from tests.front.fake_worker import FakeWorker, chat_request, due, make_lane
from tests.front.test_lane import text_of, turn

HIGH, NORMAL, LOW, BATCH = Priority


def ask(
    token: int = 1,
    *,
    key: str = "",
    weight: float = 1.0,
    priority: Priority = NORMAL,
    timeout_ms: int | None = None,
    max_tokens: int | None = None,
) -> GenerateRequest:
    terms = Terms(key, weight, priority, due(timeout_ms))
    return GenerateRequest("r", "tiny", TokenPrompt((token,)), max_tokens=max_tokens, terms=terms)


async def fill(lane: Lane, priority: Priority = NORMAL) -> list[ActiveRun]:
    """Give the worker all that it takes."""
    return [await lane.submit(ask(priority=priority)) for _ in range(lane.concurrency + LOOK_AHEAD)]


# Order


async def test_a_freed_sequence_goes_to_the_highest_priority_that_waits() -> None:
    lane = make_lane(concurrency=1)
    worker = FakeWorker(lane)
    started = await fill(lane)
    for token, priority in ((10, BATCH), (11, LOW), (12, NORMAL), (13, NORMAL)):
        await lane.submit(ask(token, priority=priority))
    assert lane.queued_by_priority == {NORMAL: 2, LOW: 1, BATCH: 1}
    for run in started:
        worker.finish(run.number)
    worker.finish(worker.started[-1])
    assert worker.started_prompts[len(started) :] == [12, 13, 11, 10]


@pytest.mark.parametrize("weights", [(3.0, 1.0), (1.0, 3.0), (2.5, 2.5)])
@pytest.mark.parametrize("concurrency", [1, 8])
async def test_keys_that_both_have_work_waiting_complete_tokens_by_their_weights(
    weights: tuple[float, float], concurrency: int
) -> None:
    lane = make_lane(concurrency=concurrency, queue_limit=1000)
    worker = FakeWorker(lane)
    chance = random.Random(3)
    runs: dict[int, ActiveRun] = {}
    completed = Counter[str]()

    async def come(key: str, weight: float) -> None:
        # One key asks for long answers that end early, the other for what it gets.
        run = await lane.submit(ask(key=key, weight=weight, max_tokens=60 if key == "a" else 20))
        runs[run.number] = run

    for key, weight in zip("ab", weights, strict=True):
        for _ in range(2 * (concurrency + LOOK_AHEAD)):
            await come(key, weight)
    for _ in range(1500):
        at_work = [number for number in worker.started if number in runs]
        ended = runs.pop(chance.choice(at_work[:concurrency]))
        tokens = chance.randint(1, 20)
        worker.tokens(ended.number, *range(tokens))
        worker.finish(ended.number)
        completed[ended.claim.key] += tokens
        await come(ended.claim.key, ended.claim.weight)
    assert completed["a"] / completed["b"] == pytest.approx(weights[0] / weights[1], rel=0.1)


# Bounds


async def test_a_run_that_lost_its_place_ends_with_the_reason() -> None:
    lane = make_lane(concurrency=1, queue_limit=1)
    worker = FakeWorker(lane)
    await fill(lane)
    low = await lane.submit(ask(7, priority=LOW))
    high = await lane.submit(ask(8, priority=HIGH))
    with pytest.raises(Overloaded, match="took the place") as caught:
        await text_of(low)
    assert (caught.value.status, caught.value.code, low.outcome) == (503, "displaced", "displaced")
    with pytest.raises(ApiError):
        await lane.submit(ask(priority=LOW))
    assert high.outcome == ""
    for number in worker.started:
        worker.finish(number)
    assert high.outcome == "stop"


async def test_requests_of_low_priority_waiting_for_a_worker_keep_no_high_one_out() -> None:
    lane = make_lane(concurrency=1, queue_limit=1)
    low = [asyncio.create_task(lane.submit(ask(n, priority=LOW))) for n in range(2)]
    high = asyncio.create_task(lane.submit(ask(9, priority=HIGH)))
    await turn()
    with pytest.raises(QueueFull):
        await low[1]
    FakeWorker(lane)
    assert (await high).claim.priority is HIGH
    assert (await low[0]).claim.priority is LOW


async def test_a_long_wait_is_refused_by_what_was_measured() -> None:
    lane = Lane(
        name="tiny", aliases=(), concurrency=1, bounds=Bounds(50, wait_s=5), metrics=Metrics()
    )
    worker = FakeWorker(lane)
    run = await lane.submit(ask(max_tokens=1))
    worker.tokens(run.number, 5)
    # Its first step was 60 s before its first token.
    started = run.first_token_ns - 60_000_000_000
    lane.hear(run.number, Finished("length", 1, 1, started, run.first_token_ns, run.first_token_ns))
    await lane.submit(ask())
    with pytest.raises(Overloaded, match="at position 1, about 60"):
        await lane.submit(ask())
    await lane.submit(ask(priority=BATCH))


# Deadlines


def expire(lane: Lane, run: ActiveRun) -> None:
    """Let the time of a run be over, as its timer does."""
    assert run.timer is not None
    assert run.request.terms.deadline_ns == pytest.approx(run.timer.when() * 1e9)
    lane._expire(run)


async def test_whose_time_is_over_when_they_come_are_refused_unrun() -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    with pytest.raises(DeadlineExceeded, match="before it could wait"):
        await lane.submit(ask(timeout_ms=-1))
    assert lane.idle.is_set()
    assert worker.sent == []


async def test_what_waits_at_its_deadline_is_dropped_unrun() -> None:
    lane = make_lane(concurrency=1)
    worker = FakeWorker(lane)
    await fill(lane)
    late = await lane.submit(ask(7, timeout_ms=60_000))
    expire(lane, late)
    with pytest.raises(DeadlineExceeded, match="waiting") as caught:
        await text_of(late)
    assert (caught.value.status, late.outcome) == (504, "deadline_exceeded")
    assert worker.cancelled == []
    for number in worker.started:
        worker.finish(number)
    assert lane.idle.is_set()
    assert 7 not in worker.started_prompts


async def test_what_runs_at_its_deadline_is_cancelled_and_makes_room() -> None:
    lane = make_lane(concurrency=1)
    worker = FakeWorker(lane)
    late = await lane.submit(ask(7, timeout_ms=60_000))
    worker.tokens(late.number, 1, 2, text="so far")
    others = [await lane.submit(ask(n)) for n in range(20, 23)]
    reading = aiter(late)
    assert await anext(reading) == Piece("so far")
    expire(lane, late)
    with pytest.raises(DeadlineExceeded, match="2 tokens"):
        await anext(reading)
    assert worker.cancelled == [late.number]
    assert worker.started_prompts == [7, 20, 21, 22]
    assert [run.outcome for run in others] == ["", "", ""]


@pytest.mark.parametrize(("left_ms", "width"), [(1, 4), (60_000, 8)])
async def test_who_hangs_up_shortly_before_the_deadline_has_waited_too_long(
    left_ms: int, width: int
) -> None:
    lane = make_lane(concurrency=8)
    FakeWorker(lane)
    run = await lane.submit(ask(timeout_ms=60_000))
    run.claim.deadline_ns = due(left_ms)
    run.arrived_ns -= 60_000_000_000
    run.close()
    assert lane.width == width


@pytest.mark.parametrize("asked", [chat_request(), ask()])
async def test_a_deadline_ends_the_wait_for_a_worker_too(asked: GenerateRequest) -> None:
    lane = make_lane()
    asked = replace(asked, terms=Terms(deadline_ns=due(1)))
    with pytest.raises(DeadlineExceeded, match="before the prompt was read"):
        await lane.submit(asked)
    assert lane.idle.is_set()
    assert FakeWorker(lane).sent == []


async def test_who_cannot_wait_for_a_load_is_refused_at_once_and_it_begins() -> None:
    lane = make_lane()
    worker = FakeWorker(lane, load_ms=60_000)
    worker.die()
    lane.state = "unloaded"
    wanted: list[bool] = []
    lane.on_wanted = lambda: wanted.append(True)
    with pytest.raises(Overloaded, match="being loaded") as caught:
        await lane.submit(ask(timeout_ms=30_000))
    assert caught.value.retry_after == 60
    assert wanted
    assert lane.idle.is_set()
    waiting = asyncio.create_task(lane.submit(ask(timeout_ms=90_000)))
    await turn()
    FakeWorker(lane)
    assert (await waiting).outcome == ""


async def test_a_run_that_ends_in_time_hears_nothing_of_its_deadline() -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    run = await lane.submit(ask(timeout_ms=60_000))
    worker.finish(run.number)
    assert run.timer is not None
    assert run.timer.cancelled()


# Giving way


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs may be taken back as soon as they began."""
    monkeypatch.setattr(preemption, "MIN_HELD_NS", 0)


@pytest.mark.usefixtures("at_once")
async def test_a_high_priority_run_takes_the_sequence_of_a_lower_one_which_is_resumed() -> None:
    lane = make_lane(concurrency=2)
    worker = FakeWorker(lane)
    runs = await fill(lane, LOW)
    worker.tokens(runs[0].number, 40, 41, text="ab")
    worker.tokens(runs[1].number, 50, text="c")
    numbers = [run.number for run in runs]

    high = await lane.submit(ask(9, priority=HIGH))

    # Those that only waited in the worker go back too, or it would start them first.
    assert sorted(worker.cancelled) == sorted([numbers[1], *numbers[2:]])
    after = worker.started[len(numbers) :]
    assert after[0] == high.number
    assert worker.starts[len(numbers)].tokens == high.start_message().tokens
    assert len(after) == 1 + LOOK_AHEAD, "and what waits is looked ahead for again"
    worker.finish(high.number)
    worker.finish(runs[0].number)
    for run in runs[1:]:
        assert run.number in worker.started
    assert runs[1].start_message().n_prompt == 1
    assert runs[1].produced == [50]


@pytest.mark.usefixtures("at_once")
async def test_equals_and_lower_ones_take_nothing() -> None:
    lane = make_lane(concurrency=1)
    worker = FakeWorker(lane)
    await fill(lane, NORMAL)
    for priority in (NORMAL, LOW, BATCH):
        await lane.submit(ask(priority=priority))
    assert worker.cancelled == []
    high = make_lane(concurrency=1)
    others = FakeWorker(high)
    await fill(high, HIGH)
    await high.submit(ask(priority=HIGH))
    assert others.cancelled == []


async def test_a_run_that_just_began_is_not_taken_from() -> None:
    lane = make_lane(concurrency=1)
    worker = FakeWorker(lane)
    runs = await fill(lane, LOW)
    first = runs[0].number
    await lane.submit(ask(9, priority=HIGH))
    assert first not in worker.cancelled


# What is told


async def test_a_run_tells_its_place_until_it_is_answered() -> None:
    lane = make_lane(concurrency=1)
    worker = FakeWorker(lane)
    started = await fill(lane)
    second, first = await lane.submit(ask()), await lane.submit(ask(priority=HIGH))
    assert started[0].standing() == Standing(0, None)
    assert second.standing() == Standing(3, None) or second.standing() == Standing(2, None)
    worker.tokens(started[0].number, 1)
    assert started[0].standing() is None
    second.close()
    assert second.standing() is None
    assert first.outcome == ""


async def test_a_key_is_charged_with_what_was_computed_for_it_and_nothing_else() -> None:
    spent: list[tuple[str, int]] = []
    lane = Lane(
        name="tiny",
        aliases=(),
        concurrency=1,
        bounds=Bounds(10),
        metrics=Metrics(),
        spent=lambda key, tokens: spent.append((key, tokens)),
    )
    worker = FakeWorker(lane)
    runs = [await lane.submit(ask(key=key)) for key in "abcde"]
    worker.tokens(runs[0].number, 1, 2, 3)
    worker.finish(runs[0].number)
    runs[1].close()
    runs[4].close()
    assert spent[:2] == [("a", 4), ("b", 1)]
