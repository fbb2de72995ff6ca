"""What happens to the runs of a worker that died: carried on, or given up when they are the cause.

Each run's prompt starts with a token of its own, by which the tests name it.
"""

import asyncio

import pytest

from rayhost.errors import WorkerLost
from rayhost.front.run import summary
from rayhost.ipc.messages import Finished, unpack_tokens
from tests.front.fake_worker import FakeWorker, chat_request, make_lane, request
from tests.front.test_lane import text_of, turn


async def test_a_run_is_carried_on_from_its_tokens_with_nothing_lost_or_repeated() -> None:
    lane = make_lane()
    first = FakeWorker(lane)
    run = await lane.submit(request(tokens=(1, 2), max_tokens=5))
    first.tokens(run.number, 10, 11, text="to be ")
    first.die()
    assert lane.queued == 1

    second = FakeWorker(lane)
    (start,) = second.starts
    assert unpack_tokens(start.tokens) == [1, 2, 10, 11]
    assert (start.n_prompt, start.max_tokens) == (2, 5)
    second.tokens(run.number, 12, text="or not")
    second.finish(run.number, "length")

    assert await text_of(run) == "to be or not"
    assert run.finish.completion_tokens == 3


async def test_runs_go_on_in_the_order_they_came_and_before_those_that_waited() -> None:
    lane = make_lane(concurrency=2)
    first = FakeWorker(lane)
    runs = [await lane.submit(request(tokens=(n,))) for n in range(6)]
    for run in runs[:4]:
        first.tokens(run.number, 9)
    first.die()
    second = FakeWorker(lane)
    assert second.started_prompts == [0, 1, 2, 3]
    second.finish(runs[2].number)
    assert second.started_prompts == [0, 1, 2, 3, 4]


async def test_a_run_cancelled_between_two_workers_is_not_started_again() -> None:
    lane = make_lane()
    first = FakeWorker(lane)
    run = await lane.submit(request())
    first.die()
    run.close()
    assert lane.idle.is_set()
    assert FakeWorker(lane).sent == []


async def test_a_prompt_being_read_is_asked_of_the_next_worker() -> None:
    lane = make_lane()
    first = FakeWorker(lane)
    submitting = asyncio.create_task(lane.submit(chat_request()))
    await turn()
    first.die()
    second = FakeWorker(lane)
    await turn()
    second.prepared(second.asked[0], 4)
    assert (await submitting).prompt == [4]


async def test_a_prompt_over_which_two_workers_die_is_given_up() -> None:
    lane = make_lane()
    submitting = asyncio.create_task(lane.submit(chat_request()))
    for _ in range(2):
        worker = FakeWorker(lane)
        await turn()
        assert len(worker.asked) == 1
        worker.die()
    with pytest.raises(WorkerLost):
        await submitting
    assert lane.idle.is_set()


async def test_a_run_under_which_two_workers_die_is_given_up_and_no_other() -> None:
    lane = make_lane(concurrency=4)
    first = FakeWorker(lane)
    streaming = await lane.submit(request(tokens=(1,)))
    first.tokens(streaming.number, 9)
    poison = await lane.submit(request(tokens=(2,)))
    fresh = [await lane.submit(request(tokens=(n,))) for n in (3, 4)]
    first.die()

    # Nobody knows which of those without a token it was: they are tried one at a time.
    second = FakeWorker(lane)
    assert second.started_prompts == [1, 2]
    second.die()
    with pytest.raises(WorkerLost, match="died 2 times"):
        await text_of(poison)

    third = FakeWorker(lane)
    assert third.started_prompts == [1]
    third.tokens(streaming.number, 9)
    assert third.started_prompts == [1, 3]
    third.tokens(fresh[0].number, 9)
    assert third.started_prompts == [1, 3, 4]
    third.tokens(fresh[1].number, 9)
    for run in (streaming, *fresh):
        third.finish(run.number)
        assert run.outcome == "stop"


@pytest.mark.parametrize("ending", ["token", "finish", "cancel"])
async def test_the_next_suspect_is_tried_when_the_one_before_is_cleared_or_gone(
    ending: str,
) -> None:
    lane = make_lane(concurrency=4)
    first = FakeWorker(lane)
    runs = [await lane.submit(request(tokens=(n,))) for n in (1, 2)]
    first.die()
    second = FakeWorker(lane)
    assert second.started_prompts == [1]
    match ending:
        case "token":
            second.tokens(runs[0].number, 9)
        case "finish":
            second.finish(runs[0].number)
        case "cancel":
            runs[0].close()
    assert second.started_prompts == [1, 2]


async def test_a_run_that_gets_a_token_from_each_worker_outlives_any_number_of_them() -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    run = await lane.submit(request())
    for n in range(10):
        worker.tokens(run.number, n, text=str(n))
        worker.die()
        worker = FakeWorker(lane)
    worker.finish(run.number)
    assert await text_of(run) == "0123456789"


async def test_a_run_that_only_waited_in_the_front_is_not_blamed() -> None:
    lane = make_lane(concurrency=1)
    worker = FakeWorker(lane)
    runs = [await lane.submit(request(tokens=(n,))) for n in range(4)]
    worker.die()
    for _ in range(3):
        worker = FakeWorker(lane)
        worker.die()
        worker.die()
    last = FakeWorker(lane)
    assert runs[3].outcome == ""
    assert last.started_prompts == [3]


async def test_a_resumed_runs_times_are_of_its_life_not_of_its_last_worker() -> None:
    lane = make_lane()
    first = FakeWorker(lane)
    run = await lane.submit(request())
    first.tokens(run.number, 1)
    first.die()
    FakeWorker(lane)
    late = run.first_token_ns + 5_000_000_000
    lane.hear(run.number, Finished("stop", 3, 1, late, late, late))
    fields = summary(run)
    # When its first step was, only the lost worker knew.
    assert (fields["queue_ms"], fields["prefill_ms"]) == (None, None)
    assert isinstance(fields["decode_ms"], float)
