"""What is asked of the text thread alone: answered past the queue, bounded, and never lost."""

import asyncio

import pytest

from rayhost.errors import DeadlineExceeded, InvalidRequest, Overloaded, Unavailable, WorkerLost
from rayhost.front.intake import MAX_ASKING
from rayhost.front.lane import Lane
from rayhost.front.request import Priority, Reading, Terms
from rayhost.ipc.messages import Cancel, Convert, Converted, Rejected
from tests.front.fake_worker import FakeWorker, due, make_lane, request
from tests.support.waiting import soon

ASKED = Convert("tokens", text="hi")
TOLD = Converted(tokens=b"\1\0\0\0")


def asking(lane: Lane) -> "asyncio.Task[Reading]":
    return asyncio.create_task(lane.ask(ASKED, Terms()))


async def asked(worker: FakeWorker, count: int = 1) -> list[int]:
    """Wait until a worker was asked so often; return what the questions are called."""

    def numbers() -> list[int]:
        return [number for number, message in worker.sent if message == ASKED]

    await soon(lambda: len(numbers()) == count, "the worker is asked")
    return numbers()


async def test_an_answer_comes_though_every_sequence_is_busy_and_nobody_may_wait() -> None:
    lane = make_lane(concurrency=1, queue_limit=0)
    worker = FakeWorker(lane)
    await lane.submit(request())
    question = asking(lane)
    (number,) = await asked(worker)
    assert lane.queued == 0
    lane.hear(number, TOLD)
    assert await question == TOLD


async def test_a_refusal_is_the_clients() -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    question = asking(lane)
    (number,) = await asked(worker)
    lane.hear(number, Rejected("no room", "invalid_value", "content"))
    with pytest.raises(InvalidRequest, match="no room") as caught:
        await question
    assert caught.value.param == "content"


async def test_who_left_keeps_nobody_waiting() -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    question = asking(lane)
    (number,) = await asked(worker)
    question.cancel()
    await asyncio.gather(question, return_exceptions=True)
    assert worker.sent[-1] == (number, Cancel())


async def test_more_than_so_many_at_a_time_are_refused() -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    questions = [asking(lane) for _ in range(MAX_ASKING)]
    numbers = await asked(worker, MAX_ASKING)
    with pytest.raises(Overloaded, match="64 questions"):
        await lane.ask(ASKED, Terms())
    with pytest.raises(Overloaded):
        await lane.ask(ASKED, Terms(priority=Priority.LOW))
    lane.hear(numbers[0], TOLD)
    assert await questions[0] == TOLD
    question = asking(lane)
    (*_, last) = await asked(worker, MAX_ASKING + 1)
    lane.hear(last, TOLD)
    assert await question == TOLD
    lane.close(Unavailable("over"))
    ends = await asyncio.gather(*questions[1:], return_exceptions=True)
    assert {type(end) for end in ends} == {Unavailable}


async def test_a_time_out_is_kept() -> None:
    lane = make_lane()  # without a worker
    with pytest.raises(DeadlineExceeded):
        await lane.ask(ASKED, Terms(deadline_ns=due(1)))


async def test_the_next_worker_is_asked_what_the_last_one_did_not_answer() -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    question = asking(lane)
    await asked(worker)
    worker.die()
    second = FakeWorker(lane)
    (number,) = await asked(second)
    lane.hear(number, TOLD)
    assert await question == TOLD


async def test_a_question_that_workers_die_of_fails() -> None:
    lane = make_lane()
    question = asking(lane)
    for _ in range(2):
        worker = FakeWorker(lane)
        await asked(worker)
        worker.die()
    with pytest.raises(WorkerLost):
        await question
