"""What happens to the runs of a worker that died: carried on, or given up when they are the cause.

Each run's prompt starts with a token of its own, by which the tests name it.
"""

import asyncio

import msgspec
import pytest

from rayhost.errors import ContextLengthExceeded, Unavailable, WorkerLost
from rayhost.front.blame import Death
from rayhost.front.request import Piece
from rayhost.front.run import summary
from rayhost.ipc.messages import Finished, TokenLogprob, Tokens, unpack_tokens
from tests.front.fake_worker import FakeWorker, chat_request, make_lane, request
from tests.front.test_lane import text_of, turn

SOME = (9,) * 4  # tokens that prove a run harmless, before any crash
ENOUGH = (9,) * 8  # and after one


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
        first.tokens(run.number, *SOME)
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


async def test_a_prompt_that_kills_its_worker_twice_takes_no_neighbour_with_it() -> None:
    lane = make_lane(concurrency=4)
    worker = FakeWorker(lane)
    runs = [await lane.submit(request(tokens=(n,))) for n in (1, 2, 3)]
    asking = [asyncio.create_task(lane.submit(chat_request(str(n)))) for n in range(3)]
    for crash in range(2):
        if crash:
            worker = FakeWorker(lane)
        await turn()
        assert len(worker.asked) == 3
        # In the second, suspect runs wait until the suspect prompt is read.
        assert worker.started_prompts == ([] if crash else [1, 2, 3])
        worker.die()
    await turn()
    with pytest.raises(WorkerLost, match="on this prompt"):
        await asking[0]

    last = FakeWorker(lane)
    await turn()
    assert last.started_prompts == [1]
    for number in last.asked:
        last.prepared(number, 7)
    assert [(await task).prompt for task in asking[1:]] == [[7], [7]]
    for run in runs:
        last.tokens(run.number, *ENOUGH)
    assert last.started_prompts == [1, 2, 3, 7, 7]


async def test_suspect_runs_are_tried_when_the_suspect_prompts_client_leaves() -> None:
    lane = make_lane()
    first = FakeWorker(lane)
    await lane.submit(request())
    asking = asyncio.create_task(lane.submit(chat_request()))
    await turn()
    first.die()
    second = FakeWorker(lane)
    await turn()
    assert second.started == []
    asking.cancel()
    await turn()
    assert len(second.started) == 1


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
    first.tokens(streaming.number, *SOME)
    poison = await lane.submit(request(tokens=(2,)))
    fresh = [await lane.submit(request(tokens=(n,))) for n in (3, 4)]
    first.die()

    # Nobody knows which of those that had just begun it was: they are tried one at a time.
    second = FakeWorker(lane)
    assert second.started_prompts == [1, 2]
    second.die()
    with pytest.raises(WorkerLost, match="again and again"):
        await text_of(poison)

    third = FakeWorker(lane)
    assert third.started_prompts == [1, 3]
    third.tokens(fresh[0].number, *ENOUGH)
    assert third.started_prompts == [1, 3, 4]
    third.tokens(fresh[1].number, *ENOUGH)
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
            second.tokens(runs[0].number, *ENOUGH)
        case "finish":
            second.finish(runs[0].number)
        case "cancel":
            runs[0].close()
    assert second.started_prompts == [1, 2]


@pytest.mark.parametrize("death", [Death.KILLED, Death.HUNG])
async def test_a_run_that_gets_on_outlives_any_number_of_workers_lost_to_others(
    death: Death,
) -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    run = await lane.submit(request())
    for n in range(15):
        worker.tokens(run.number, *SOME, text=str(n))
        worker.die(death)
        worker = FakeWorker(lane)
    worker.finish(run.number)
    assert await text_of(run) == "".join(map(str, range(15)))


@pytest.mark.parametrize(
    ("death", "patience"), [(Death.CRASHED, 2), (Death.HUNG, 4), (Death.KILLED, 12)]
)
@pytest.mark.parametrize("given", [0, 1])
async def test_a_run_that_hardly_gets_on_is_given_up_sooner_the_likelier_it_is_the_cause(
    death: Death, patience: int, given: int
) -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    run = await lane.submit(request())
    for _ in range(patience):
        assert run.outcome == ""
        worker.tokens(run.number, *[9] * given)
        worker.die(death)
        worker = FakeWorker(lane)
    assert run.outcome == "worker_lost"


@pytest.mark.parametrize("tokens", [1, 3, 7, 20])
async def test_a_run_that_crashes_its_worker_again_and_again_after_some_tokens_is_found_alone(
    tokens: int,
) -> None:
    lane = make_lane(concurrency=4)
    worker = FakeWorker(lane, context=10_000)
    runs = [await lane.submit(request(tokens=(n,))) for n in (1, 2, 3)]
    poison = runs[1]
    crashes = 0
    while not poison.outcome:
        for _ in range(200):  # steps
            for run in runs:
                if run.number in worker.started:
                    worker.tokens(run.number, 9)
            if poison.record.here >= tokens and poison.number in worker.started:
                break
        worker.die()
        worker = FakeWorker(lane, context=10_000)
        crashes += 1
        assert crashes < 10
    assert poison.outcome == "worker_lost"
    assert [run.outcome for run in runs if run is not poison] == ["", ""]
    assert worker.started_prompts[0] == 1


async def test_nobody_is_convicted_of_what_another_did_beside_it() -> None:
    lane = make_lane(concurrency=4)
    worker = FakeWorker(lane)
    innocent = await lane.submit(request(tokens=(1,)))
    poison = await lane.submit(request(tokens=(2,)))
    worker.die()
    poison.close()  # its client hangs up, and sends it again
    worker = FakeWorker(lane)
    again = await lane.submit(request(tokens=(2,)))
    assert worker.started_prompts == [1]  # it waits until the suspect has got on
    worker.tokens(innocent.number, *ENOUGH)
    assert worker.started_prompts == [1, 2]
    for _ in range(2):
        worker.die()
        assert innocent.outcome == ""
        worker = FakeWorker(lane)
        worker.tokens(innocent.number, *ENOUGH)
    assert (innocent.outcome, again.outcome) == ("", "worker_lost")


async def test_a_run_that_only_waited_in_the_worker_is_not_blamed() -> None:
    lane = make_lane(concurrency=1)
    worker = FakeWorker(lane)
    first, behind = [await lane.submit(request(tokens=(n,))) for n in (1, 2)]
    for _ in range(20):
        assert worker.started_prompts == [1, 2]
        worker.tokens(first.number, *ENOUGH)
        worker.die(Death.KILLED)
        worker = FakeWorker(lane)
    assert (first.outcome, behind.outcome) == ("", "")


async def test_what_workers_died_of_is_refused_when_it_is_sent_again() -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    run = await lane.submit(request(tokens=(5, 6)))
    for _ in range(2):
        worker.die()
        worker = FakeWorker(lane)
    assert run.outcome == "worker_lost"
    with pytest.raises(WorkerLost, match="not tried again for"):
        await lane.submit(request("another-id", tokens=(5, 6)))
    assert (await lane.submit(request(tokens=(5, 7)))).outcome == ""
    lane.identity = b"another model"
    assert (await lane.submit(request(tokens=(5, 6)))).outcome == ""


async def test_a_run_that_only_waited_in_the_front_is_not_blamed() -> None:
    lane = make_lane(concurrency=1)
    worker = FakeWorker(lane)
    runs = [await lane.submit(request(tokens=(n,))) for n in range(4)]
    worker.die()
    for _ in range(3):
        worker = FakeWorker(lane)
        worker.die()
    last = FakeWorker(lane)
    assert [run.outcome for run in runs] == ["worker_lost", "worker_lost", "", ""]
    assert last.started_prompts == [2, 3]


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


async def test_a_run_whose_sequence_is_taken_away_resumes_later_and_hears_no_late_frames() -> None:
    lane = make_lane(concurrency=1)
    worker = FakeWorker(lane)
    run = await lane.submit(request(tokens=(1, 2)))
    worker.tokens(run.number, 10, text="a")
    old = run.number

    lane._preempt(run)
    assert worker.cancelled == [old]
    assert lane.queued == 1
    worker.tokens(old, 11, text="late")
    worker.finish(old)
    assert (run.produced, run.outcome) == ([10], "")

    lane._dispatch()
    assert worker.started == [old, run.number]
    assert run.number != old
    assert unpack_tokens(worker.starts[-1].tokens) == [1, 2, 10]
    worker.tokens(old, 11, text="later still")
    worker.tokens(run.number, 12, text="b")
    worker.finish(run.number)
    assert await text_of(run) == "ab"
    assert lane.idle.is_set()


async def test_a_run_that_waits_after_a_preemption_can_be_cancelled_and_closed() -> None:
    lane = make_lane(concurrency=1)
    worker = FakeWorker(lane)
    runs = [await lane.submit(request()) for _ in range(2)]
    for run in runs:
        lane._preempt(run)
    runs[0].close()
    assert worker.started[2:] == [runs[1].number]  # there was room for it
    lane._preempt(runs[1])
    lane.close(Unavailable("over"))
    assert [run.outcome for run in runs] == ["cancelled", "unavailable"]
    assert len(worker.cancelled) == 3


async def test_runs_that_a_smaller_context_cannot_hold_end_with_what_they_have() -> None:
    lane = make_lane(concurrency=3)
    first = FakeWorker(lane, context=64)
    full = await lane.submit(request(tokens=(1,) * 4))
    fits = await lane.submit(request(tokens=(2,) * 4, max_tokens=50))
    wide = await lane.submit(request(tokens=(3,) * 40))
    fresh = await lane.submit(request(tokens=(4,) * 40))
    first.tokens(full.number, *[9] * 40, text="all of it")
    first.tokens(fits.number, *SOME, text="some")
    first.tokens(wide.number, *SOME, text="wide")
    first.die(Death.REPLACED)

    second = FakeWorker(lane, context=32)
    with pytest.raises(ContextLengthExceeded, match="made smaller"):
        await text_of(fresh)
    assert second.started == [full.number, fits.number, wide.number]
    # The worker has the text that was held back, and says that it is the last.
    assert [start.outgrown for start in second.starts] == [True, False, True]
    assert second.starts[1].max_tokens == 28
    second.tokens(full.number, text=", at last")
    second.finish(full.number, "length")
    assert await text_of(full) == "all of it, at last"
    assert (full.finish.reason, full.finish.completion_tokens) == ("length", 40)
    second.die(Death.REPLACED)

    third = FakeWorker(lane, context=128)
    assert [start.outgrown for start in third.starts] == [False, False]
    assert third.starts[0].max_tokens == 50


async def test_a_run_that_was_full_before_is_not_told_its_last_text_again() -> None:
    lane = make_lane()
    first = FakeWorker(lane, context=64)
    run = await lane.submit(request(tokens=(1,) * 4, max_tokens=10))
    first.tokens(run.number, *[9] * 10, text="all of it")  # but not yet that this was all
    for context in (8, 6, 64):
        lane.detach(Death.REPLACED)
        (start,) = FakeWorker(lane, context=context).starts
        assert not start.outgrown
    run.close()


async def test_tokens_of_one_vocabulary_are_never_carried_on_in_another() -> None:
    lane = make_lane()
    first = FakeWorker(lane, vocabulary=100)
    run = await lane.submit(request())
    first.die(Death.REPLACED)
    second = FakeWorker(lane, vocabulary=200)
    with pytest.raises(Unavailable, match="replaced"):
        await text_of(run)
    assert second.started == []
    assert (await lane.submit(request(tokens=(150,)))).prompt == [150]


async def test_mirostats_state_goes_with_a_run_to_the_next_worker() -> None:
    lane = make_lane()
    first = FakeWorker(lane)
    run = await lane.submit(request(tokens=(1, 2), max_tokens=5))
    assert first.starts[0].mu is None
    lane.hear(run.number, Tokens((10,), "a", mu=4.5))
    lane.hear(run.number, Tokens((11,), "b", mu=4.25))
    first.die()
    (start,) = FakeWorker(lane).starts
    assert start.mu == 4.25
    run.close()


async def test_log_probabilities_come_once_each_with_the_text_they_begin() -> None:
    lane = make_lane()
    first = FakeWorker(lane)
    asked = msgspec.structs.replace(request(tokens=(1, 2), max_tokens=9), logprobs=0)
    run = await lane.submit(asked)
    assert first.starts[0].logprobs == 0
    told = [TokenLogprob(n, b"%d" % n, -n / 8) for n in range(6)]
    reading = aiter(run)
    lane.hear(run.number, Tokens((0,), "zero ", (told[0],), 1))
    assert await anext(reading) == Piece("zero ", (told[0],))
    lane.hear(run.number, Tokens((1,), "", (told[1],), 1))  # its text is held back
    lane.hear(run.number, Tokens((2,), "", (told[2],), 1))
    first.die()
    second = FakeWorker(lane)
    lane.hear(run.number, Tokens((3,), "one two th", (told[3],), 4))
    assert await anext(reading) == Piece("one two th", tuple(told[1:4]))
    lane.hear(run.number, Tokens((4,), "", (told[4],), 5))  # a token without any text
    assert await anext(reading) == Piece("", (told[4],))
    lane.hear(run.number, Tokens((5,), "", (told[5],), 5))  # a part of the stop string
    second.finish(run.number)
    with pytest.raises(StopAsyncIteration):
        await anext(reading)


async def test_what_a_run_reused_is_what_its_first_step_did_in_any_worker() -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    run = await lane.submit(request(max_tokens=5))
    worker.die()
    begun = []
    for reused in (2, 0, 3):
        worker = FakeWorker(lane)
        begun += [start.begun for start in worker.starts]
        lane.hear(run.number, Tokens((), "", n_reused=reused))
        assert run.first_token_ns == 0
        worker.die(Death.REPLACED)
    last = FakeWorker(lane)
    last.tokens(run.number, 9, text="all")
    last.finish(run.number)
    assert await text_of(run) == "all"
    assert begun == [False, True, True]
    assert run.finish.reused_tokens == 2
