"""The step loop against a fake engine that checks its batches, one step at a time."""

import threading
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayhost.engine.base import EngineFailed
from rayhost.ipc.messages import Load, Rejected, Start, Stop
from rayhost.ipc.sampling import Sampling
from rayhost.ipc.status import STEP_SIZES, STEP_TIMES, Word
from rayhost.worker.scheduler import MIN_CHUNK
from tests.worker.fake_engine import END, PIECES, VOCABULARY, FakeEngine, reference
from tests.worker.rig import GREEDY, Rig

SEEDED = Sampling(temperature=0.9, top_p=0.95, top_k=8, frequency_penalty=0.3, seed=7)
SAMPLINGS = st.sampled_from(
    (GREEDY, SEEDED, Sampling(seed=1), Sampling(min_p=0.2, repeat_penalty=1.3, seed=2))
)
PROMPT = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=47)
STOPS = st.sampled_from(((), ("ab",), ("abc", "bc"), (" ", "\u00e9"), ("\U0001f600a", "cc")))


@dataclass(frozen=True)
class Arrival:
    """A request and the steps it lives for; None means to its end."""

    prompt: list[int]
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...]
    cancelled_after: int | None


ARRIVALS = st.lists(
    st.lists(
        st.builds(
            Arrival,
            prompt=PROMPT,
            max_tokens=st.integers(1, 60),
            sampling=SAMPLINGS,
            stop=STOPS,
            cancelled_after=st.none() | st.integers(0, 12),
        ),
        max_size=3,
    ),
    max_size=8,
)


@settings(max_examples=300, deadline=None)
@given(ARRIVALS, st.integers(1, 4), st.integers(0, 20))
def test_every_run_gives_what_it_would_give_alone(
    turns: list[list[Arrival]], slots: int, spare: int
) -> None:
    rig = Rig(FakeEngine(slots=slots, batch=slots + spare))
    arrivals: dict[int, Arrival] = {}
    cancels: dict[int, list[int]] = {}
    for turn, arriving in enumerate(turns):
        for arrival in arriving:
            number = len(arrivals)
            arrivals[number] = arrival
            rig.start(
                number,
                arrival.prompt,
                arrival.max_tokens,
                sampling=arrival.sampling,
                stop=arrival.stop,
            )
            if arrival.cancelled_after is not None:
                cancels.setdefault(turn + arrival.cancelled_after, []).append(number)
        for number in cancels.pop(turn, ()):
            rig.cancel(number)
        rig.loop.step()
    for turn in sorted(cancels):
        for number in cancels[turn]:
            rig.cancel(number)
        rig.loop.step()
    rig.finish()

    for number, arrival in arrivals.items():
        expected = reference(arrival.prompt, arrival.max_tokens, arrival.sampling, arrival.stop)
        told = rig.told(number)
        if told.finished is None:
            assert arrival.cancelled_after is not None
            assert told.ids == expected[0][: len(told.ids)]
            assert expected[1].startswith(told.text)
        else:
            assert told.result == expected
            assert told.finished.n_prompt == len(arrival.prompt)
            assert told.finished.n_generated == len(told.ids)
    assert not rig.loop.scheduler.busy
    assert max(rig.engine.sizes, default=0) <= slots + spare


@settings(max_examples=150, deadline=None)
@given(PROMPT, st.integers(1, 40), SAMPLINGS, STOPS)
def test_a_resumed_run_goes_on_identically_from_every_point(
    prompt: list[int], max_tokens: int, sampling: Sampling, stop: tuple[str, ...]
) -> None:
    whole = Rig()
    whole.start(0, prompt, max_tokens, sampling=sampling, stop=stop)
    whole.finish()
    tokens = whole.news(0)
    for cut in range(len(tokens) + 1):
        produced = [token for message in tokens[:cut] for token in message.ids]
        rest = Rig()
        most = min(max_tokens, 48 - len(prompt))  # the front knows the context
        rest.start(0, prompt, most, produced=produced, sampling=sampling, stop=stop)
        rest.finish()
        assert rest.news(0) == tokens[cut:]  # the very same frames, held-back text included
        finished, expected = rest.told(0).finished, whole.told(0).finished
        assert finished is not None
        assert expected is not None
        assert finished.reason == expected.reason
        assert finished.n_prompt == expected.n_prompt
        assert finished.n_generated == expected.n_generated
        assert finished.stop_sequence == expected.stop_sequence


def test_a_run_says_which_stop_string_ended_it() -> None:
    _, text, _ = reference([1], 30, GREEDY)
    stop = text[2:4]
    rig = Rig()
    rig.start(5, [1], 30, stop=("never said", stop))
    rig.start(6, [1], 2)
    rig.finish()
    ends = [rig.told(number).finished for number in (5, 6)]
    assert [end.stop_sequence for end in ends if end] == [stop, None]


def test_a_run_that_was_over_when_its_worker_died_is_told_so_without_a_step() -> None:
    ids, _, reason = reference([1], 3, GREEDY)
    rig = Rig()
    rig.start(5, [1], 3, produced=ids)
    rig.loop.step()
    told = rig.told(5)
    assert (told.ids, told.text) == ([], "")
    assert told.finished is not None
    assert told.finished.reason == reason
    assert told.finished.started_ns == told.finished.first_token_ns <= told.finished.finished_ns
    assert rig.engine.sizes == []
    assert not rig.loop.scheduler.busy


def test_a_resumed_run_that_fills_the_context_is_over_not_refused() -> None:
    rig = Rig(FakeEngine(context=8))
    produced = [1, 2, 3, 4, 5]
    rig.start(0, [1, 1, 1], 100, produced=produced)
    rig.loop.step()
    finished = rig.told(0).finished
    assert finished is not None
    assert (finished.reason, finished.n_generated) == ("length", 5)


def until(reason: str, ending: str) -> tuple[list[int], list[int]]:
    """Return the first short prompt whose greedy run ends so, and the run."""
    for token in range(1, VOCABULARY):
        for second in range(1, VOCABULARY):
            ids, _, why = reference([token, second], 40, GREEDY)
            if why == reason and (ids[-1] == END) == (ending == "end of turn"):
                return [token, second], ids
    raise AssertionError("no prompt of two tokens does")


def test_the_end_token_is_told_by_id_and_has_no_text() -> None:
    prompt, ids = until("stop", "end of turn")
    rig = Rig()
    rig.start(0, prompt, 40)
    rig.finish()
    assert rig.told(0).ids == ids
    assert rig.told(0).ids[-1] == END
    assert rig.told(0).text == b"".join(PIECES[token] for token in ids).decode(errors="replace")


def test_a_prompt_one_token_short_of_the_context_yields_one_token() -> None:
    rig = Rig()
    rig.start(0, [1] * 47, 100)
    rig.finish()
    finished = rig.told(0).finished
    assert finished is not None
    assert (finished.reason, finished.n_prompt, finished.n_generated) == ("length", 47, 1)


def test_a_cancel_frees_the_slot_before_the_next_step() -> None:
    rig = Rig(FakeEngine(slots=1))
    rig.start(1, [1, 2, 3], 40)
    rig.start(2, [4, 5], 40)
    rig.loop.step()
    assert rig.engine.cells == [[1, 2, 3]]
    rig.cancel(1)
    rig.loop.step()
    assert rig.engine.cells == [[4, 5]]
    assert [s.request_id for s in rig.loop.scheduler] == [2]
    told = len(rig.told(1).ids)
    rig.finish()
    assert len(rig.told(1).ids) == told


def test_a_cancelled_request_that_waits_never_runs() -> None:
    rig = Rig(FakeEngine(slots=1))
    rig.start(1, [1], 2)
    rig.start(2, [2], 2)
    rig.loop.step()
    rig.cancel(2)
    rig.finish()
    assert 2 not in rig.out.told


def test_cancelling_what_is_not_there_changes_nothing() -> None:
    rig = Rig()
    rig.cancel(9)
    rig.start(1, [1], 2)
    rig.cancel(8)
    rig.finish()
    rig.cancel(1)
    rig.loop.step()
    assert rig.told(1).result == reference([1], 2, GREEDY)


def test_a_start_and_its_cancel_in_one_step_compute_nothing() -> None:
    rig = Rig()
    rig.start(1, [1, 2], 5)
    rig.cancel(1)
    rig.loop.step()
    assert rig.engine.sizes == []
    assert rig.out.told == {}


def test_each_step_is_flushed_once_after_its_messages() -> None:
    rig = Rig()
    for number in range(3):
        rig.start(number, [number + 1], 4)
    steps = 0
    while True:
        rig.loop.step()
        steps += 1
        if not rig.loop.scheduler.busy:
            break
    assert rig.out.log.count("flush") == steps
    assert rig.out.log[-1] == "flush"
    # What was reused for it and a token, of each of the three.
    assert rig.out.log.index("flush") == 6


def test_every_token_is_told_in_the_step_that_made_it_and_finished_comes_last() -> None:
    rig = Rig()
    ids, _, reason = reference([3, 4], 5, GREEDY)
    rig.start(0, [3, 4], 5)
    for steps, token in enumerate(ids, 1):
        assert rig.told(0).finished is None
        rig.loop.step()
        assert len(rig.news(0)) == steps
        assert rig.news(0)[-1].ids == (token,)
    finished = rig.told(0).finished
    assert finished is not None
    assert finished.reason == reason


def test_times_are_in_order_and_the_queue_is_not_part_of_them() -> None:
    rig = Rig(FakeEngine(slots=1))
    rig.start(1, [1], 3)
    rig.start(2, [2], 3)
    rig.loop.step()
    after_one_step = next(rig.clock)
    rig.finish()
    first, second = rig.told(1).finished, rig.told(2).finished
    assert first is not None
    assert second is not None
    assert first.started_ns < first.first_token_ns < after_one_step < first.finished_ns
    assert second.started_ns < second.first_token_ns <= second.finished_ns
    assert second.started_ns > first.finished_ns


@pytest.mark.parametrize(
    ("tokens", "n_prompt", "max_tokens", "code", "param"),
    [
        ([], 0, 5, "invalid_value", "prompt"),
        ([1, 2], 0, 5, "invalid_value", "prompt"),
        ([1, 2], 3, 5, "invalid_value", "prompt"),
        ([1, VOCABULARY], 2, 5, "invalid_value", "prompt"),
        ([-1, 1], 2, 5, "invalid_value", "prompt"),
        ([1], 1, 0, "invalid_value", "max_tokens"),
        ([1] * 48, 48, 5, "context_length_exceeded", None),
    ],
)
def test_a_start_that_cannot_run_is_rejected_and_the_others_go_on(
    tokens: list[int], n_prompt: int, max_tokens: int, code: str, param: str | None
) -> None:
    rig = Rig()
    rig.start(1, tokens[:n_prompt], max_tokens, produced=tokens[n_prompt:])
    if n_prompt > len(tokens):
        rig.inbox.get()
        rig.inbox.put((1, Start(b"\1\0\0\0\2\0\0\0", n_prompt, max_tokens, GREEDY, ())))
    rig.start(2, [1], 2)
    rig.finish()
    rejected = rig.told(1).rejected
    assert isinstance(rejected, Rejected)
    assert (rejected.code, rejected.param) == (code, param)
    assert rig.told(2).result == reference([1], 2, GREEDY)


def test_the_status_page_tells_what_the_loop_does() -> None:
    rig = Rig(FakeEngine(slots=2))
    for number in range(3):
        rig.start(number, [1, 2, 3, number + 1], 6)
    rig.loop.step()
    status = rig.status
    assert (status[Word.ACTIVE], status[Word.WAITING]) == (2, 1)
    assert (status[Word.KV_TOKENS], status[Word.PREFILL_TOKENS]) == (8, 8)
    assert status[Word.STEP] == 1
    beat = status[Word.BEAT_NS]
    rig.finish()
    assert (status[Word.ACTIVE], status[Word.WAITING], status[Word.KV_TOKENS]) == (0, 0, 0)
    assert status[Word.FINISHED] == 3
    assert status[Word.PREFILL_TOKENS] == 9  # the third found three of its tokens in its slot
    assert status[Word.DECODE_TOKENS] == sum(len(told.ids) for told in rig.out.told.values())
    assert status[Word.STEP] == len(rig.engine.sizes)
    assert status[Word.BEAT_NS] > beat
    assert 0 < status[Word.DECODE_NS] < status[Word.STEP_NS]
    assert status[Word.BATCH_TOKENS] == sum(rig.engine.sizes)
    assert sum(status.counts(STEP_TIMES)) == sum(status.counts(STEP_SIZES)) == status[Word.STEP]
    ones = sum(size == 1 for size in rig.engine.sizes)
    assert status.counts(STEP_SIZES)[0] == ones


def test_a_prompt_of_one_token_counts_as_prefill() -> None:
    rig = Rig()
    rig.start(0, [1], 3)
    rig.finish()
    assert rig.status[Word.PREFILL_TOKENS] == 1


def test_prefill_beside_decoding_keeps_to_the_time_that_steps_were_measured_to_take() -> None:
    rig = Rig(FakeEngine(slots=2, context=300, batch=256))
    rig.start(0, [3, 4], 200)
    rig.loop.step()  # two tokens took several of the clock's milliseconds; a step may take five
    rig.start(1, [1] * 200, 5)
    rig.loop.step()
    assert rig.engine.sizes == [2, 1 + MIN_CHUNK]


def test_a_step_with_nothing_to_do_shows_life_and_counts_no_step() -> None:
    rig = Rig()
    rig.loop.step()
    assert rig.status[Word.STEP] == 0
    assert rig.status[Word.BEAT_NS] > 0


def test_a_broken_engine_ends_the_loop() -> None:
    rig = Rig()
    rig.start(1, [1], 5)
    rig.loop.step()
    rig.engine.fail = True
    with pytest.raises(EngineFailed, match="told to fail"):
        rig.loop.run()


def test_a_message_that_is_not_for_the_loop_ends_it() -> None:
    rig = Rig()
    load = Load("m", "p", 1, 1, 1, 1, (0,), "f16", "split", 1, "json")
    rig.inbox.put((0, load))
    with pytest.raises(TypeError, match="does not take Load"):
        rig.loop.step()


def test_run_serves_until_it_is_told_to_stop() -> None:
    rig = Rig()
    thread = threading.Thread(target=rig.loop.run)
    thread.start()
    for number in range(2):  # the second comes to a loop that sleeps
        rig.start(number, [number + 1], 4)
        assert rig.out.finished.get(timeout=30) == number
    rig.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert rig.told(1).result == reference([2], 4, GREEDY)


def test_run_ends_at_once_when_stop_is_the_first_message() -> None:
    rig = Rig()
    rig.inbox.put((0, Stop()))
    rig.loop.run()
    assert rig.engine.sizes == []
