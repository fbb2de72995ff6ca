"""A lane against a worker that the test plays: queueing, starting, refusing, ending."""

import asyncio
import traceback
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from rayhost.errors import (
    ApiError,
    ContextLengthExceeded,
    InvalidRequest,
    QueueFull,
    Unavailable,
)
from rayhost.front.lane import LOOK_AHEAD
from rayhost.front.request import Finish, GenerateRequest
from rayhost.front.run import ActiveRun
from rayhost.ipc.messages import Finished, Prepare, Ready, Rejected, Stop, Unexpected, unpack_tokens
from rayhost.ipc.sampling import Sampling
from tests.front.fake_worker import (
    CONTEXT,
    VOCABULARY,
    FakeWorker,
    chat_request,
    make_lane,
    request,
    text_request,
)


async def text_of(run: ActiveRun) -> str:
    return "".join([piece.text async for piece in run])


async def turn() -> None:
    """Let every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


# Starting


async def test_a_run_goes_to_the_worker_as_tokens_and_parameters() -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    asked = GenerateRequest(
        id="a",
        model="tiny",
        prompt=request(tokens=(5, 6)).prompt,
        sampling=Sampling(temperature=0.5, seed=7),
        max_tokens=9,
        stop=("end",),
    )

    run = await lane.submit(asked)

    ((number, start),) = zip(worker.started, worker.starts, strict=True)
    assert number == run.number
    assert unpack_tokens(start.tokens) == [5, 6]
    assert (start.n_prompt, start.max_tokens) == (2, 9)
    assert (start.sampling, start.stop) == (asked.sampling, ("end",))


@pytest.mark.parametrize(
    ("asked", "granted"),
    [(None, CONTEXT - 3), (1, 1), (CONTEXT - 3, CONTEXT - 3), (CONTEXT, CONTEXT - 3)],
)
async def test_max_tokens_is_capped_by_the_room_in_the_context(
    asked: int | None, granted: int
) -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    await lane.submit(request(max_tokens=asked))
    assert worker.starts[0].max_tokens == granted


async def test_the_worker_gets_its_sequences_and_a_look_ahead_in_order_of_arrival() -> None:
    lane = make_lane(concurrency=2)
    worker = FakeWorker(lane)
    runs = [await lane.submit(request(tokens=(n,))) for n in range(7)]

    assert worker.started_prompts == list(range(2 + LOOK_AHEAD))
    assert lane.queued == 3

    worker.finish(runs[1].number)
    worker.finish(runs[0].number)
    assert worker.started_prompts == list(range(6))
    assert lane.queued == 1


async def test_requests_wait_for_a_worker_that_is_still_loading() -> None:
    lane = make_lane()
    waiting = [asyncio.create_task(lane.submit(request(tokens=(n,)))) for n in range(3)]
    await turn()
    assert lane.queued == 3

    worker = FakeWorker(lane)
    runs = await asyncio.gather(*waiting)
    assert worker.started == [run.number for run in runs]
    assert worker.started_prompts == [0, 1, 2]


# Tokens of a prompt


@pytest.mark.parametrize("make", [chat_request, text_request])
async def test_a_prompt_is_made_into_tokens_by_the_worker(
    make: Callable[[str], GenerateRequest],
) -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    asked = make("a")
    submitting = asyncio.create_task(lane.submit(asked))
    await turn()
    ((number, prepare),) = worker.sent
    assert isinstance(prepare, Prepare)
    assert lane.queued == 1

    worker.prepared(number, 8, 9)
    run = await submitting
    assert run.prompt == [8, 9]
    assert worker.started == [run.number]


@pytest.mark.parametrize(
    ("tokens", "error", "code"),
    [
        ((), InvalidRequest, "invalid_value"),
        (tuple([1] * CONTEXT), ContextLengthExceeded, "context_length_exceeded"),
        (tuple([1] * 10_000), ContextLengthExceeded, "context_length_exceeded"),
        ((1, VOCABULARY), InvalidRequest, "invalid_value"),
        ((-1, 1), InvalidRequest, "invalid_value"),
    ],
)
async def test_a_prompt_that_cannot_run_is_refused_before_it_queues(
    tokens: tuple[int, ...], error: type[ApiError], code: str
) -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    for _ in range(10):
        await lane.submit(request())
    sent = len(worker.sent)

    with pytest.raises(error) as caught:
        await lane.submit(request(tokens=tokens))

    assert (caught.value.code, caught.value.param) == (code, "prompt")
    assert len(worker.sent) == sent
    assert lane.queued == 10 - 2 - LOOK_AHEAD


async def test_the_longest_prompt_leaves_room_for_one_token() -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    await lane.submit(request(tokens=tuple([1] * (CONTEXT - 1))))
    assert worker.starts[0].max_tokens == 1


async def test_the_message_names_the_bad_token_and_the_good_ones() -> None:
    lane = make_lane()
    FakeWorker(lane)
    with pytest.raises(InvalidRequest, match=r"-7 is not a token of .tiny.: .* 0 to 99"):
        await lane.submit(request(tokens=(5, -7)))


async def test_what_the_worker_refuses_to_tokenize_is_the_clients_error() -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    submitting = asyncio.create_task(lane.submit(chat_request()))
    await turn()
    lane.hear(worker.asked[0], Rejected("no template", "no_chat_template", "messages"))
    with pytest.raises(InvalidRequest, match="no template") as caught:
        await submitting
    assert (caught.value.code, caught.value.param) == ("no_chat_template", "messages")
    assert lane.idle.is_set()


async def test_what_the_worker_refuses_to_start_ends_that_run_and_lets_the_next_in() -> None:
    lane = make_lane(concurrency=1)
    worker = FakeWorker(lane)
    runs = [await lane.submit(request(tokens=(n,))) for n in range(4)]
    lane.hear(runs[0].number, Rejected("too long", "context_length_exceeded"))
    with pytest.raises(InvalidRequest, match="too long"):
        await text_of(runs[0])
    assert worker.started_prompts == [0, 1, 2, 3]


# The queue's bound


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    lane = make_lane(concurrency=2, queue_limit=3)
    worker = FakeWorker(lane)
    for _ in range(2 + LOOK_AHEAD + 3):
        await lane.submit(request())
    with pytest.raises(QueueFull, match="3 requests wait already") as caught:
        await lane.submit(request())
    assert caught.value.retry_after == 1
    assert lane.queued == 3

    worker.finish(worker.started[0])
    await lane.submit(request())
    with pytest.raises(QueueFull):
        await lane.submit(request())


async def test_prompts_being_read_count_against_the_bound() -> None:
    lane = make_lane(concurrency=1, queue_limit=2)
    FakeWorker(lane)
    waiting = [asyncio.create_task(lane.submit(chat_request())) for _ in range(3)]
    await turn()
    with pytest.raises(QueueFull):
        await lane.submit(chat_request())
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert lane.idle.is_set()


async def test_a_queue_of_none_still_serves_what_can_start_at_once() -> None:
    lane = make_lane(concurrency=2, queue_limit=0)
    worker = FakeWorker(lane)
    await lane.submit(request())
    await lane.submit(request())
    with pytest.raises(QueueFull):
        await lane.submit(request())
    worker.finish(worker.started[0])
    await lane.submit(request())


# Ending


async def test_a_run_yields_its_text_and_then_how_it_ended() -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    run = await lane.submit(request())
    reading = asyncio.create_task(text_of(run))
    worker.tokens(run.number, 10, text="Pa")
    await turn()
    with pytest.raises(RuntimeError, match="has not finished"):
        _ = run.finish
    worker.tokens(run.number, 11)  # bytes held back
    worker.tokens(run.number, 12, text="ris")
    lane.hear(run.number, Finished("stop", 3, 3, 1, 2, 3, stop_sequence="."))
    assert await reading == "Paris"
    assert run.finish == Finish("stop", prompt_tokens=3, completion_tokens=3, stop_sequence=".")
    assert run.prompt_tokens == 3
    assert lane.idle.is_set()


async def test_a_reader_that_comes_late_gets_everything_at_once() -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    run = await lane.submit(request())
    worker.tokens(run.number, 1, text="a")
    worker.tokens(run.number, 2, text="b")
    worker.finish(run.number, "length")
    assert [piece.text async for piece in run] == ["ab"]
    assert run.finish.reason == "length"


async def test_text_that_comes_with_the_end_while_the_reader_is_busy_is_not_lost() -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    run = await lane.submit(request())
    worker.tokens(run.number, 1, text="a")
    pieces = []
    async for piece in run:
        pieces.append(piece.text)
        if len(pieces) == 1:
            worker.tokens(run.number, 2, text="b")
            worker.finish(run.number)
    assert pieces == ["a", "b"]


async def test_frames_of_a_run_that_was_cancelled_are_dropped() -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    run = await lane.submit(request())
    other = await lane.submit(request())
    run.close()

    worker.tokens(run.number, 1, text="late")
    worker.finish(run.number)
    lane.hear(run.number, Rejected("late", "invalid_value"))
    worker.prepared(run.number, 1)

    assert run.produced == []
    assert run.outcome == "cancelled"
    assert other.outcome == ""
    assert not lane.idle.is_set()


async def test_a_message_that_no_ready_worker_sends_is_an_error() -> None:
    lane = make_lane()
    FakeWorker(lane)
    for message in (Stop(), Ready("", "", 0, 0, 0, 0, 0, False, 0.0)):
        with pytest.raises(Unexpected, match="does not send"):
            lane.hear(1, message)


# Cancelling


async def test_cancelling_while_there_is_no_worker_leaves_nothing() -> None:
    lane = make_lane()
    submitting = asyncio.create_task(lane.submit(chat_request()))
    await turn()
    submitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await submitting
    assert lane.idle.is_set()
    assert FakeWorker(lane).sent == []


async def test_cancelling_while_the_prompt_is_read_leaves_nothing() -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    submitting = asyncio.create_task(lane.submit(chat_request()))
    await turn()
    submitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await submitting
    assert worker.cancelled == worker.asked[:1], "others wait behind a prompt that nobody wants"
    worker.prepared(worker.asked[0], 1, 2)
    worker.die()
    assert lane.idle.is_set()
    assert FakeWorker(lane).sent == []


async def test_cancelling_in_the_queue_is_not_the_workers_business() -> None:
    lane = make_lane(concurrency=1)
    worker = FakeWorker(lane)
    runs = [await lane.submit(request(tokens=(n,))) for n in range(5)]
    runs[3].close()
    assert worker.cancelled == []
    worker.finish(runs[0].number)
    assert worker.started_prompts == [0, 1, 2, 4]


async def test_cancelling_a_started_run_tells_the_worker_before_the_next_starts() -> None:
    lane = make_lane(concurrency=1)
    worker = FakeWorker(lane)
    runs = [await lane.submit(request(tokens=(n,))) for n in range(4)]
    runs[1].close()
    runs[1].close()
    assert worker.cancelled == [runs[1].number]
    assert [number for number, _ in worker.sent[-2:]] == [runs[1].number, runs[3].number]


async def test_closing_after_the_end_does_nothing() -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    run = await lane.submit(request())
    worker.finish(run.number)
    run.close()
    assert (run.outcome, worker.cancelled) == ("stop", [])
    assert lane.idle.is_set()


# Closing the lane


async def test_close_fails_every_request_wherever_it_is() -> None:
    lane = make_lane(concurrency=1)
    worker = FakeWorker(lane)
    runs = [await lane.submit(request()) for _ in range(5)]
    preparing = asyncio.create_task(lane.submit(chat_request()))
    await turn()
    worker.die()
    waiting = asyncio.create_task(lane.submit(chat_request()))
    await turn()

    lane.close(Unavailable("gone for good", code="model_failed"))

    for run in runs:
        with pytest.raises(Unavailable, match="gone for good"):
            await text_of(run)
        assert run.outcome == "model_failed"
    for task in (preparing, waiting):
        with pytest.raises(Unavailable, match="gone for good"):
            await task
    with pytest.raises(Unavailable, match="gone for good"):
        await lane.submit(request())
    assert lane.queued == 0
    assert lane.idle.is_set()


async def test_close_tells_a_worker_that_still_lives() -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    run = await lane.submit(request())
    lane.close(Unavailable("gone"))
    assert worker.cancelled == [run.number]


async def test_a_prompt_that_was_read_just_before_the_close_is_not_forgotten_in_the_queue() -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    submitting = asyncio.create_task(lane.submit(chat_request()))
    await turn()
    worker.prepared(worker.asked[0], 1, 2)
    worker.die()
    lane.close(Unavailable("gone"))
    with pytest.raises(Unavailable, match="gone"):
        await submitting
    assert lane.idle.is_set()


async def test_a_failed_models_error_does_not_grow_with_every_request_it_ends() -> None:
    lane = make_lane()
    error = Unavailable("gone")
    lane.close(error)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await lane.submit(request())
    depth = len(traceback.extract_tb(error.__traceback__))
    for _ in range(50):
        with pytest.raises(Unavailable):
            await lane.submit(request())
    assert len(traceback.extract_tb(error.__traceback__)) == depth


# The log line


async def test_every_run_gives_one_log_line_whatever_its_end() -> None:
    lane = make_lane(concurrency=1)
    worker = FakeWorker(lane)
    with capture_logs() as lines:
        runs = [await lane.submit(request(name)) for name in "abcd"]
        worker.tokens(runs[0].number, 1, 2, text="x")
        worker.finish(runs[0].number)
        runs[1].close()
        lane.hear(runs[2].number, Rejected("bad", "some_code"))
        lane.close(Unavailable("gone"))
    assert {line["event"] for line in lines} == {"request"}
    assert [(line["request_id"], line["outcome"]) for line in lines] == [
        ("a", "stop"),
        ("b", "cancelled"),
        ("c", "some_code"),
        ("d", "unavailable"),
    ]
    assert (lines[0]["model"], lines[0]["prompt_tokens"]) == ("tiny", 3)
    assert lines[0]["completion_tokens"] == 2
