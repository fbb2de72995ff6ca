"""A lane while memory is short: what it needs of its worker, and whom it has to turn away."""

import asyncio

import pytest
from msgspec.structs import replace

from rayhost.errors import ContextLengthExceeded, Overloaded
from rayhost.front.lane import Lane
from rayhost.ipc.messages import Constraint, Prepared, Rejected, pack_tokens
from tests.front.fake_worker import FakeWorker, make_lane, request
from tests.front.test_embedding import Embedder, tokens
from tests.front.test_lane import turn

ASKED = Constraint("json_object", "{}")
REFUSED = Overloaded("no room", code="no_memory", retry_after=15)


def short(context: int) -> Lane:
    """Return a lane whose model has a context of 1,024 tokens at other times."""
    lane = make_lane()
    FakeWorker(lane, context=context)
    lane.full_context = 1024
    return lane


async def test_the_least_context_is_that_of_the_longest_answer_that_was_promised() -> None:
    lane = make_lane(concurrency=1)
    FakeWorker(lane, context=1024)
    assert lane.least_context == 1
    await lane.submit(request(tokens=(1,) * 100, max_tokens=50))
    assert lane.least_context == 150
    unbounded = await lane.submit(request(tokens=(1,) * 100))
    assert lane.least_context == 100 + 256
    queued = [await lane.submit(request(tokens=(1,) * 500, max_tokens=5)) for _ in range(3)]
    assert lane.least_context == 505
    for run in (unbounded, *queued):
        run.close()
    assert lane.least_context == 150


async def test_an_answer_without_a_bound_keeps_what_it_has_grown_to() -> None:
    lane = make_lane()
    worker = FakeWorker(lane, context=1024)
    run = await lane.submit(request(tokens=(1,) * 100))
    worker.tokens(run.number, *[9] * 400)
    assert lane.least_context == 501


async def test_a_prompt_that_is_too_long_only_now_may_come_back() -> None:
    lane = short(64)
    with pytest.raises(
        Overloaded, match="64 tokens now, not 1,024, and your prompt has 64"
    ) as told:
        await lane.submit(request(tokens=(1,) * 64))
    assert (told.value.code, told.value.retry_after) == ("no_memory", 15)
    with pytest.raises(ContextLengthExceeded):
        await lane.submit(request(tokens=(1,) * 1024))
    await lane.submit(request(tokens=(1,) * 63))


async def test_who_was_overtaken_by_a_smaller_context_may_come_back() -> None:
    lane = make_lane(concurrency=1)
    worker = FakeWorker(lane, context=1024)
    lane.full_context = 1024
    started = await lane.submit(request(tokens=(1,) * 500))
    queued = [await lane.submit(request(tokens=(1,) * 500)) for _ in range(3)][-1]
    FakeWorker(lane, context=256)
    lane.hear(started.number, Rejected("too long", "context_length_exceeded"))
    for run in (started, queued):
        with pytest.raises(Overloaded, match="memory is short"):
            async for _ in run:
                pass
    assert worker.started


async def test_structured_output_without_room_is_refused_and_nothing_is_set_aside_for_it() -> None:
    lane = short(1024)

    def refuse() -> None:
        raise REFUSED

    lane.on_constrained = refuse
    with pytest.raises(Overloaded, match="no room"):
        await lane.submit(replace(request(), constraint=ASKED))
    assert not lane.constrained
    assert lane.idle.is_set()


async def test_a_worker_that_is_gone_has_nothing_for_structured_output() -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    asking = asyncio.create_task(lane.submit(replace(request(), constraint=ASKED)))
    await turn()
    assert lane.constrained
    worker.die()
    assert lane.constrained  # the next one will compile it
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    FakeWorker(lane).die()
    assert not lane.constrained


async def test_a_worker_that_resumes_structured_output_will_hold_what_it_takes() -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    asking = asyncio.create_task(lane.submit(replace(request(), constraint=ASKED)))
    await turn()
    (number,) = worker.asked
    lane.hear(number, Prepared(pack_tokens([1, 2]), ASKED))
    run = await asking
    worker.die()
    assert lane.constrained
    run.close()
    FakeWorker(lane).die()
    assert not lane.constrained


@pytest.mark.parametrize(
    ("length", "refused"), [(63, False), (64, False), (65, True), (1024, True)]
)
async def test_an_input_to_embed_may_fill_the_context(length: int, refused: bool) -> None:
    lane = make_lane()
    Embedder(lane, context=64)
    lane.full_context = 1024
    asking = lane.submit(tokens(*(1,) * length))
    if refused:
        with pytest.raises(Overloaded, match="memory is short"):
            await asking
    else:
        assert (await asking).least_context == length
