"""Identical requests: one run for all who ask at once, one answer for all who ask later."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from rayhost.errors import (
    ApiError,
    DeadlineExceeded,
    Overloaded,
    QueueFull,
    Unavailable,
    WorkerLost,
)
from rayhost.front.host import Host
from rayhost.front.lane import Lane
from rayhost.front.request import (
    Finish,
    GenerateRequest,
    Priority,
    Recalled,
    Run,
    Terms,
    TokenPrompt,
)
from rayhost.front.result_cache import ResultCache
from rayhost.front.sharing import Share
from rayhost.http.choices import forked
from rayhost.ipc.messages import Rejected
from rayhost.ipc.sampling import Sampling
from rayhost.metrics import Metrics
from tests.front.fake_worker import FakeWorker, due, make_lane, request, text_request
from tests.front.test_lane import turn

GREEDY = Sampling(temperature=0)


def ask(name: str, **changes: Any) -> GenerateRequest:
    return replace(request(name), **{"sampling": GREEDY, **changes})


class Rig:
    """A host of one model with a cache, and the worker that the test plays."""

    def __init__(self, share: Share = "reproducible", queue_limit: int = 100) -> None:
        self.lane: Lane = make_lane(queue_limit=queue_limit)
        self.lane.identity = b"first"
        self.cache = ResultCache(1 << 20, 60)
        self.metrics = Metrics()
        self.host = Host([self.lane], self.metrics, lambda: [], self.cache, {"tiny": share})
        self.worker = FakeWorker(self.lane)

    async def begin(self, asked: GenerateRequest) -> Run:
        assert self.host.recall(asked) is None
        return await self.host.submit(asked)

    async def answer(self, *pieces: str) -> None:
        """Have the run that was started last say this and end."""
        for piece in pieces:
            self.worker.tokens(self.worker.started[-1], 1, text=piece)
            await turn()
        self.worker.finish(self.worker.started[-1])
        await turn()

    async def compute(self, asked: GenerateRequest, *pieces: str) -> Run:
        """Have a request answered by the worker."""
        run = await self.begin(asked)
        await self.answer(*pieces)
        await read(run)
        return run

    def counted(self, name: str, **labels: str) -> float:
        for family in self.metrics.families():
            for sample in family.samples:
                if sample.name == f"rayhost_{name}" and labels.items() <= sample.labels.items():
                    return sample.value
        return 0.0


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def read(run: Run) -> list[str]:
    try:
        return [piece.text async for piece in run]
    finally:
        run.close()


def lines_of(logs: Any) -> list[tuple[str, str, str | None]]:
    """Each request's line: id, outcome, and how it was cached."""
    return [(one["request_id"], one["outcome"], one.get("cached")) for one in logs]


# One run for all


async def test_identical_requests_in_flight_share_one_run(rig: Rig) -> None:
    runs = [await rig.begin(ask(name)) for name in "abc"]
    assert [run.cache for run in runs] == ["miss", "joined", "joined"]
    assert len(rig.worker.started) == 1
    reading = [asyncio.create_task(read(run)) for run in runs]
    await rig.answer("Hel", "lo")
    assert [await one for one in reading] == [["Hel", "lo"]] * 3
    assert [run.finish for run in runs] == [Finish("stop", 3, 2)] * 3


async def test_one_that_comes_late_gets_what_was_said_and_then_what_is(rig: Rig) -> None:
    first = await rig.begin(ask("a"))
    rig.worker.tokens(rig.worker.started[0], 1, text="Hel")
    rig.worker.tokens(rig.worker.started[0], 1, text="lo")
    await turn()
    late = await rig.begin(ask("late"))
    reading = asyncio.create_task(read(late))
    await turn()
    await rig.answer(" you")
    assert await reading == ["Hello", " you"]
    assert "".join(await read(first)) == "Hello you"


async def test_requests_share_while_their_prompt_is_read_and_before_any_worker_is_there() -> None:
    lane = make_lane()
    host = Host([lane], Metrics(), lambda: [])
    asked = replace(text_request(), sampling=GREEDY)
    submitting = [asyncio.create_task(host.submit(replace(asked, id=name))) for name in "abc"]
    await turn()
    lane.identity = b"now it is known"
    worker = FakeWorker(lane)
    await turn()
    (number,) = worker.asked
    worker.prepared(number, 1, 2)
    runs = await asyncio.gather(*submitting)
    assert len(worker.started) == 1
    assert [run.cache for run in runs] == ["miss", "joined", "joined"]


@pytest.mark.parametrize(
    "other",
    [
        {"max_tokens": 7},
        {"sampling": Sampling(temperature=0, presence_penalty=1)},
        {"sampling": Sampling(temperature=1)},
        {"reuse": "never"},
        {"reuse": "refresh"},
    ],
)
async def test_a_request_that_differs_or_wants_its_own_runs_alone(
    rig: Rig, other: dict[str, Any]
) -> None:
    await rig.begin(ask("a"))
    assert (await rig.begin(ask("b", **other))).cache != "joined"
    assert len(rig.worker.started) == 2


async def test_what_cannot_be_reproduced_is_not_shared(rig: Rig) -> None:
    drawn = [await rig.begin(ask(name, sampling=Sampling(seed=5))) for name in "ab"]
    assert [run.cache for run in drawn] == ["bypass", "bypass"]
    seeded = [await rig.begin(ask(n, sampling=Sampling(seed=5), seeded=True)) for n in "cd"]
    assert [run.cache for run in seeded] == ["miss", "joined"]


async def test_the_operator_says_what_is_shared() -> None:
    everything, nothing = Rig("all"), Rig("none")
    for seed in (1, 2):  # drawn: not the client's choice
        await everything.begin(ask(str(seed), sampling=Sampling(seed=seed)))
        await nothing.begin(ask(str(seed)))
    assert len(everything.worker.started) == 1
    assert len(nothing.worker.started) == 2


async def test_choices_that_are_to_differ_share_no_run_whatever_is_shared() -> None:
    rig = Rig("all")
    for _ in "ab":
        for choice in forked(ask("r", sampling=Sampling(seed=1)), 2):
            await rig.begin(choice)
    assert len(rig.worker.started) == 2


async def test_a_listener_that_reads_nothing_holds_nobody_back(rig: Rig) -> None:
    slow, fast = await rig.begin(ask("slow")), await rig.begin(ask("fast"))
    reading = asyncio.create_task(read(fast))
    await turn()
    await rig.answer(*("x",) * 50)
    assert len(await reading) == 50
    assert await read(slow) == ["x" * 50]


async def test_the_run_stops_when_the_last_listener_leaves(rig: Rig) -> None:
    runs = [await rig.begin(ask(name)) for name in "abc"]
    for run in runs[:2]:
        run.close()
        run.close()  # harmless
    await turn()
    assert not rig.worker.cancelled
    runs[2].close()
    assert rig.worker.cancelled == rig.worker.started
    await turn()
    assert rig.lane.idle.is_set()
    await rig.begin(ask("new"))
    assert len(rig.worker.started) == 2  # nobody joins what was stopped


async def test_the_first_may_leave_while_the_prompt_is_read(rig: Rig) -> None:
    asked = replace(text_request(), sampling=GREEDY)
    with capture_logs() as logs:
        first, second = (
            asyncio.create_task(rig.host.submit(replace(asked, id=name))) for name in "ab"
        )
        await turn()
        first.cancel()
        await turn()
        assert not rig.worker.cancelled
        rig.worker.prepared(rig.worker.asked[0], 1, 2)
        run = await second
        await rig.answer("x")
        assert await read(run) == ["x"]
    assert first.cancelled()
    assert lines_of(logs) == [("a", "cancelled", None), ("b", "stop", None)]


async def test_the_last_to_leave_while_the_prompt_is_read_takes_the_question_back(rig: Rig) -> None:
    submitting = asyncio.create_task(rig.host.submit(replace(text_request(), sampling=GREEDY)))
    await turn()
    submitting.cancel()
    await turn()
    assert submitting.cancelled()
    assert rig.worker.cancelled == rig.worker.asked
    assert rig.lane.idle.is_set()


async def test_a_request_cancelled_before_its_flight_began_leaves_nothing(rig: Rig) -> None:
    submitting = asyncio.create_task(rig.host.submit(ask("a")))
    await asyncio.sleep(0)  # it has made the flight, whose task has not had its turn
    submitting.cancel()
    await turn()
    assert submitting.cancelled()
    assert rig.lane.idle.is_set()
    assert (await rig.begin(ask("b"))).cache == "miss"


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_who_comes_when_the_last_listener_just_left_has_a_run_of_their_own(
    rig: Rig, turns: int
) -> None:
    first = await rig.begin(ask("a"))
    first.close()
    for _ in range(turns):  # of the loop: the flight is cancelled, then ends, then is forgotten
        await asyncio.sleep(0)
    second = await rig.begin(ask("b"))
    assert second.cache == "miss"
    await rig.answer("x")
    assert await read(second) == ["x"]


async def test_an_error_of_the_run_is_everybodys(rig: Rig) -> None:
    runs = [await rig.begin(ask(name)) for name in "ab"]
    reading = [asyncio.create_task(read(run)) for run in runs]
    await turn()
    rig.lane.close(WorkerLost("gone"))
    for one in reading:
        with pytest.raises(WorkerLost):
            await one
    assert len(rig.cache) == 0


async def test_a_refusal_is_everybodys_and_logged_for_each(rig: Rig) -> None:
    asked = replace(text_request(), sampling=GREEDY)
    with capture_logs() as logs:
        submitting = [
            asyncio.create_task(rig.host.submit(replace(asked, id=name))) for name in "ab"
        ]
        await turn()
        rig.lane.hear(rig.worker.asked[0], Rejected("no", "bad_prompt"))
        for one in submitting:
            with pytest.raises(ApiError, match="no"):
                await one
    assert lines_of(logs) == [("a", "bad_prompt", None), ("b", "bad_prompt", None)]
    assert rig.counted("refusals_total", reason="bad_prompt") == 2


async def test_nobody_waits_for_a_run_that_comes_later_than_their_own_would(rig: Rig) -> None:
    low, high = Terms(priority=Priority.LOW), Terms(priority=Priority.HIGH)
    await rig.begin(ask("low", terms=low))
    assert (await rig.begin(ask("too", terms=low))).cache == "joined"
    assert (await rig.begin(ask("high", terms=high))).cache == "miss"
    assert (await rig.begin(ask("next", terms=high))).cache == "joined"


async def test_a_run_that_is_under_way_is_joined_whatever_its_priority(rig: Rig) -> None:
    await rig.begin(ask("low", terms=Terms(priority=Priority.LOW)))
    rig.worker.tokens(rig.worker.started[0], 1, text="x")
    await turn()
    joined = await rig.begin(ask("high", terms=Terms(priority=Priority.HIGH)))
    assert joined.cache == "joined"


def within(timeout_ms: int | None, key: str = "") -> Terms:
    return Terms(key=key, deadline_ns=due(timeout_ms))


async def test_a_run_with_a_deadline_is_for_those_whose_own_is_no_later(rig: Rig) -> None:
    runs = [await rig.begin(ask(name, terms=within(60_000))) for name in "abc"]
    hurried = await rig.begin(ask("d", terms=within(30_000)))
    assert [run.cache for run in (*runs, hurried)] == ["miss", "joined", "joined", "joined"]
    assert (await rig.begin(ask("later", terms=within(70_000)))).cache == "miss"
    assert (await rig.begin(ask("patient"))).cache == "miss"
    assert (await rig.begin(ask("e", terms=within(60_000)))).cache == "joined"
    assert len(rig.worker.started) == 3


async def test_who_joined_a_run_with_a_deadline_leaves_by_an_earlier_one(rig: Rig) -> None:
    first = await rig.begin(ask("a", terms=within(60_000)))
    hurried = await rig.begin(ask("b", terms=within(1)))
    with pytest.raises(DeadlineExceeded) as caught:
        await read(hurried)
    assert caught.value.retry_after == 1
    await rig.answer("Hello")
    assert await read(first) == ["Hello"]


# What the terms of one forbid


async def full(rig: Rig) -> list[Run]:
    """Have one key hold all of a queue of four, behind what is started."""
    return [
        await rig.begin(
            ask(f"greedy-{number}", prompt=TokenPrompt((number,)), terms=Terms("greedy"))
        )
        for number in range(1, 9)
    ]


@pytest.fixture
def small() -> Rig:
    return Rig(queue_limit=4)


def last(name: str, key: str, **changes: Any) -> GenerateRequest:
    """Ask what the greedy key's last waiting request asks."""
    return ask(name, prompt=TokenPrompt((8,)), terms=Terms(key, **changes))


async def test_who_joined_a_run_that_is_displaced_waits_on_terms_of_their_own(small: Rig) -> None:
    with capture_logs() as logs:
        runs = await full(small)
        bob, dan = await small.begin(last("bob", "bob")), await small.begin(last("dan", "dan"))
        assert [bob.cache, dan.cache] == ["joined", "joined"]
        reading = [asyncio.create_task(read(run)) for run in (runs[-1], bob, dan)]
        await small.begin(ask("carol", prompt=TokenPrompt((9,)), terms=Terms("carol")))
        with pytest.raises(QueueFull, match="more than its share"):
            await reading[0]
        await turn()
        for run in runs[:-1]:
            run.close()
        await turn()
        number = small.worker.started[small.worker.started_prompts.index(8)]
        small.worker.tokens(number, 1, text="x")
        small.worker.finish(number)
        assert [await one for one in reading[1:]] == [["x"], ["x"]]
    told = [one for one in lines_of(logs) if one[0] in ("greedy-8", "bob", "dan")]
    assert told == [
        ("greedy-8", "displaced", None),
        ("bob", "stop", None),
        ("dan", "stop", "joined"),
    ]


async def test_each_is_refused_for_themselves_where_nobody_may_wait(small: Rig) -> None:
    with capture_logs() as logs:
        runs = await full(small)
        bob = await small.begin(last("bob", "bob", priority=Priority.LOW))
        reading = asyncio.create_task(read(bob))
        await small.begin(ask("carol", prompt=TokenPrompt((9,)), terms=Terms("carol")))
        with pytest.raises(Overloaded) as refused:
            await reading
        assert refused.value.code == "queue_full"
        with pytest.raises(QueueFull):
            await read(runs[-1])
    told = [one for one in lines_of(logs) if one[0] in ("greedy-8", "bob")]
    assert told == [("greedy-8", "displaced", None), ("bob", "queue_full", "joined")]


async def test_a_refusal_at_the_door_of_the_queue_is_not_passed_on_either(small: Rig) -> None:
    await full(small)
    asked = replace(text_request(), sampling=GREEDY)
    greedy, bob = (
        asyncio.create_task(small.host.submit(replace(asked, id=name, terms=Terms(name))))
        for name in ("greedy", "bob")
    )
    with pytest.raises(QueueFull):
        await greedy
    await turn()
    small.worker.prepared(small.worker.asked[-1], 1, 2)
    assert (await bob).cache == "joined"


async def test_who_takes_a_run_over_leaves_when_its_own_time_is_over(small: Rig) -> None:
    runs = await full(small)
    bob = await small.begin(last("bob", "bob", deadline_ns=due(30)))
    await small.begin(ask("carol", prompt=TokenPrompt((9,)), terms=Terms("carol")))
    with pytest.raises(ApiError) as refused:
        await read(bob)
    assert refused.value.code == "deadline_exceeded"
    with pytest.raises(QueueFull):
        await read(runs[-1])


async def test_a_run_that_others_take_over_ends_when_they_have_left(small: Rig) -> None:
    await full(small)
    bob = await small.begin(last("bob", "bob"))
    await small.begin(ask("carol", prompt=TokenPrompt((9,)), terms=Terms("carol")))
    await turn()
    before = small.lane.queued
    bob.close()
    await turn()
    assert small.lane.queued == before - 1


# One answer for all who ask later


async def test_who_joined_with_a_deadline_leaves_when_it_comes(rig: Rig) -> None:
    first = await rig.begin(ask("a"))
    hurried = await rig.begin(ask("b", terms=within(1)))
    with pytest.raises(DeadlineExceeded):
        await read(hurried)
    hurried.close()
    await rig.answer("Hello")
    assert await read(first) == ["Hello"]
    assert rig.counted("requests_total", outcome="deadline_exceeded") == 1


async def test_an_answer_is_computed_once(rig: Rig) -> None:
    await rig.compute(ask("a"), "Hel", "lo")
    found = rig.host.recall(ask("b"))
    assert isinstance(found, Recalled)
    assert (found.model, found.text, found.finish) == ("tiny", "Hello", Finish("stop", 3, 2, 3))
    assert [one.text for one in found.pieces()] == ["Hel", "lo"]
    assert rig.host.recall(replace(ask("c"), model="t")) is not None  # an alias
    assert rig.host.recall(ask("d", max_tokens=7)) is None


async def test_an_answer_outlives_the_client_that_left_before_the_others(rig: Rig) -> None:
    first, second = await rig.begin(ask("a")), await rig.begin(ask("b"))
    first.close()
    await rig.answer("x")
    await read(second)
    assert rig.host.recall(ask("c")) is not None


async def test_only_whole_answers_are_kept(rig: Rig) -> None:
    run = await rig.begin(ask("a"))
    rig.worker.tokens(rig.worker.started[0], 1, text="x")
    await turn()
    run.close()
    await turn()
    assert len(rig.cache) == 0


async def test_no_store_leaves_no_trace_and_no_cache_brings_a_new_answer(rig: Rig) -> None:
    never = await rig.compute(ask("a", reuse="never"), "private")
    assert (never.cache, len(rig.cache)) == ("bypass", 0)
    await rig.compute(ask("b"), "old")
    assert rig.host.recall(ask("c", reuse="never")) is None
    refreshed = await rig.compute(ask("d", reuse="refresh"), "new")
    assert refreshed.cache == "bypass"
    found = rig.host.recall(ask("e"))
    assert found is not None
    assert found.text == "new"


async def test_a_new_file_or_setting_empties_the_models_cache(rig: Rig) -> None:
    await rig.compute(ask("a"), "x")
    rig.cache.put(b"k", "another model", ["y"], Finish("stop", 1, 1))
    rig.worker.die()
    assert rig.host.recall(ask("b")) is not None  # what was said is still true
    rig.lane.identity = b"second"
    assert rig.host.recall(ask("c")) is None
    assert len(rig.cache) == 1


async def test_a_run_that_another_model_carried_on_is_not_kept_nor_joined(rig: Rig) -> None:
    run = await rig.begin(ask("a"))
    rig.worker.die()
    rig.lane.identity = b"second"
    rig.worker = FakeWorker(rig.lane)
    other = await rig.begin(ask("b"))
    assert other.cache == "miss"
    rig.worker.finish(rig.worker.started[0])
    await read(run)
    await turn()
    assert len(rig.cache) == 0
    await rig.answer("x")
    await read(other)
    assert len(rig.cache) == 1


async def test_a_run_that_lived_through_other_settings_is_not_kept_where_they_came_back(
    rig: Rig,
) -> None:
    run = await rig.begin(ask("a"))
    rig.lane.identity = b"smaller"
    rig.lane.identity = b"first"
    other = await rig.begin(ask("b"))
    assert other.cache == "miss"
    rig.worker.finish(rig.worker.started[0])  # cut by what was smaller
    await read(run)
    await turn()
    assert len(rig.cache) == 0
    await rig.answer("x")
    await read(other)
    found = rig.host.recall(ask("c"))
    assert found is not None
    assert found.text == "x"


async def test_a_restart_with_the_same_settings_changes_no_answer(rig: Rig) -> None:
    run = await rig.begin(ask("a"))
    rig.worker.die()
    rig.lane.identity = b"first"
    rig.worker = FakeWorker(rig.lane)
    assert (await rig.begin(ask("b"))).cache == "joined"
    await rig.answer("x")
    await read(run)
    assert len(rig.cache) == 1


async def test_a_purge_forgets_every_answer(rig: Rig) -> None:
    await rig.compute(ask("a"), "x")
    assert rig.host.purge_cache() == 1
    assert rig.host.recall(ask("b")) is None
    assert rig.host.purge_cache() == 0


async def test_a_purge_covers_what_was_begun_before_it(rig: Rig) -> None:
    run = await rig.begin(ask("a"))
    rig.host.purge_cache()
    await rig.answer("old")
    assert await read(run) == ["old"]
    assert len(rig.cache) == 0
    await rig.compute(ask("b"), "new")
    assert len(rig.cache) == 1


async def test_after_a_purge_nobody_joins_what_was_begun_before_it(rig: Rig) -> None:
    before = await rig.begin(ask("a"))
    rig.host.purge_cache()
    after = [await rig.begin(ask(name)) for name in "bc"]
    assert [run.cache for run in after] == ["miss", "joined"]
    assert len(rig.worker.started) == 2
    before.close()
    await rig.answer("new")
    assert [await read(run) for run in after] == [["new"]] * 2
    assert len(rig.cache) == 1


async def test_a_host_that_goes_down_recalls_nothing(rig: Rig) -> None:
    await rig.compute(ask("a"), "x")
    rig.host.drain()
    assert rig.host.recall(ask("b")) is None
    with pytest.raises(Unavailable):
        await rig.host.submit(ask("b"))


async def test_a_model_that_nobody_knows_is_not_recalled(rig: Rig) -> None:
    assert rig.host.recall(replace(ask("a"), model="nobody")) is None


# What the operator sees


async def test_every_request_has_one_line_whoever_leaves_when(rig: Rig) -> None:
    with capture_logs() as logs:
        first, second, third, fourth = [await rig.begin(ask(name)) for name in "abcd"]
        first.close()
        fourth.close()
        await rig.answer("x")
        await read(third)
        await read(second)
        rig.host.recall(ask("e"))
    assert lines_of(logs) == [
        ("a", "cancelled", "miss"),
        ("d", "cancelled", "joined"),
        ("b", "stop", None),  # the run's own line, inherited
        ("c", "stop", "joined"),
        ("e", "stop", "hit"),
    ]
    assert {logs[-1]["prompt_tokens"], logs[-1]["completion_tokens"]} == {3, 1}


async def test_an_owner_that_leaves_just_after_the_end_keeps_the_runs_line(rig: Rig) -> None:
    with capture_logs() as logs:
        first, second = await rig.begin(ask("a")), await rig.begin(ask("b"))
        rig.worker.finish(rig.worker.started[0])
        first.close()
        await read(second)
    assert lines_of(logs) == [("a", "stop", None), ("b", "stop", "joined")]


async def test_tokens_count_once_as_generated_and_then_as_cached(rig: Rig) -> None:
    runs = [await rig.begin(ask(name)) for name in "ab"]
    await rig.answer("x", "y")
    for run in runs:
        await read(run)
    rig.host.recall(ask("c"))
    await rig.begin(ask("d", reuse="never"))
    lookups = {
        one: rig.counted("cache_lookups_total", outcome=one)
        for one in ("hit", "miss", "joined", "bypass")
    }
    assert lookups == {"hit": 1, "miss": 1, "joined": 1, "bypass": 1}
    assert rig.counted("tokens_total", kind="cached") == 4
