"""The scheduler, played against with random arrivals, cancels and step times."""

from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rayhost.ipc.sampling import Sampling
from rayhost.worker.output import TextStream
from rayhost.worker.scheduler import MIN_CHUNK, Chunk, Scheduler, StepTimes
from rayhost.worker.sequence import Sequence
from rayhost.worker.snapshots import Snapshots

TARGET_NS = 50_000_000


def sequence(number: int, prompt: int = 4, max_tokens: int = 3, priority: int = 1) -> Sequence:
    return Sequence(
        request_id=number,
        tokens=[number] * prompt,  # nobody shares anything
        n_prompt=prompt,
        max_tokens=max_tokens,
        sampling=Sampling(),
        text=TextStream(),
        priority=priority,
    )


def compute(scheduler: Scheduler, chunks: list[Chunk]) -> None:
    """Do what the step loop does with a plan, but for the model."""
    for chunk in chunks:
        chunk.sequence.computed += chunk.size
        if chunk.due:
            chunk.sequence.first_token_ns = 1
            chunk.sequence.tokens.append(chunk.sequence.request_id)
            if chunk.sequence.n_generated == chunk.sequence.max_tokens:
                scheduler.remove(chunk.sequence)


def prefills_of(chunks: list[Chunk]) -> list[Chunk]:
    return [chunk for chunk in chunks if not chunk.sequence.decoding]


def check(scheduler: Scheduler, chunks: list[Chunk], slots: int, batch: int) -> None:
    """Everything that holds for a plan, whatever came before it."""
    running, waiting = scheduler.running, list(scheduler.waiting)
    for priority in range(3):
        order = [s.request_id for s in scheduler if s.priority == priority]
        assert order == sorted(order), "somebody overtook"
    held = [s.slot for s in running]
    assert len(set(held)) == len(held), "a slot is shared"
    assert all(0 <= slot < slots for slot in held)
    assert all(s.slot == -1 for s in waiting)
    if waiting and len(running) < slots:
        assert prefills_of(chunks), "a slot is free, nobody prefills, and somebody waits"

    assert sum(chunk.size for chunk in chunks) <= batch
    for chunk in chunks:
        assert 1 <= chunk.size <= chunk.sequence.missing
        assert chunk.due == (chunk.size == chunk.sequence.missing)
    decoding = [s for s in running if s.decoding]
    assert [chunk.sequence for chunk in chunks[: len(decoding)]] == decoding
    prefilling = sorted((s for s in running if not s.decoding), key=lambda s: s.priority)
    prefills = sorted(chunks[len(decoding) :], key=lambda chunk: chunk.sequence.priority)
    assert [chunk.sequence for chunk in prefills] == prefilling[: len(prefills)]
    assert all(chunk.due for chunk in prefills[:-1]), (
        "a prompt began before the one before it ended"
    )
    if prefilling:
        room = batch - len(decoding)
        enough = min(room, MIN_CHUNK, sum(s.missing for s in prefilling))
        assert sum(chunk.size for chunk in prefills) >= enough, "prefill starves"


@dataclass(frozen=True)
class Turn:
    """What happens before a step, and how long the step takes."""

    arrivals: list[tuple[int, int, int]]  # prompt length, tokens to generate, priority
    cancels: list[int]  # which of those present
    step_ns: int


TURNS = st.lists(
    st.builds(
        Turn,
        arrivals=st.lists(
            st.tuples(st.integers(1, 90), st.integers(1, 6), st.integers(0, 2)), max_size=3
        ),
        cancels=st.lists(st.integers(0, 9), max_size=2),
        step_ns=st.integers(0, 10**9),
    ),
    max_size=25,
)


@given(st.integers(1, 5), st.integers(0, 40), TURNS)
def test_whatever_comes_and_goes_every_plan_is_sound_and_everybody_finishes(
    slots: int, spare: int, turns: list[Turn]
) -> None:
    batch = slots + spare
    scheduler = Scheduler(slots, batch, TARGET_NS, Snapshots(0))
    number = tokens_left = 0

    def step(step_ns: int) -> None:
        chunks = scheduler.plan().chunks
        check(scheduler, chunks, slots, batch)
        decoding = sum(chunk.sequence.decoding for chunk in chunks)
        compute(scheduler, chunks)
        if chunks:
            prefilled = sum(chunk.size for chunk in chunks) - decoding
            scheduler.times.learn(prefilled, decoding, step_ns)

    for turn in turns:
        for prompt, max_tokens, priority in turn.arrivals:
            scheduler.add(sequence(number, prompt, max_tokens, priority))
            number += 1
            tokens_left += prompt + max_tokens
        for cancelled in turn.cancels:
            present = list(scheduler)
            if cancelled < len(present):
                scheduler.remove(present[cancelled])
        step(turn.step_ns)
    for _ in range(tokens_left):  # each step computes at least one token
        if not scheduler.busy:
            break
        step(10**9)
    assert not scheduler.busy
    scheduler.add(sequence(number))
    scheduler.plan()
    assert len(scheduler.running) == 1


def test_slots_go_to_those_who_came_first() -> None:
    scheduler = Scheduler(2, 8, TARGET_NS, Snapshots(0))
    first, second, third = sequence(1), sequence(2), sequence(3)
    for arriving in (first, second, third):
        scheduler.add(arriving)
    scheduler.plan()
    assert scheduler.running == [first, second]
    slot = first.slot
    scheduler.remove(first)
    assert [begun.sequence for begun in scheduler.plan().begun] == [third]
    assert scheduler.running == [second, third]
    assert third.slot == slot


def test_a_long_prompt_is_computed_in_chunks_beside_a_decoding_sequence() -> None:
    scheduler = Scheduler(2, 64, TARGET_NS, Snapshots(0))
    decoding, arriving = sequence(1, max_tokens=100), sequence(2, prompt=200)
    scheduler.add(decoding)
    compute(scheduler, scheduler.plan().chunks)
    scheduler.times.learn(0, 1, TARGET_NS // 2)
    scheduler.times.learn(10, 0, 10 * TARGET_NS // 60)  # 30 tokens fit into the other half
    scheduler.add(arriving)
    assert scheduler.plan().chunks == [Chunk(decoding, 1, True), Chunk(arriving, 30, False)]


def test_a_higher_priority_gets_the_next_slot_and_is_computed_first() -> None:
    scheduler = Scheduler(2, 64, TARGET_NS, Snapshots(0))
    long, usual = sequence(1, 200, priority=2), sequence(2, priority=2)
    scheduler.add(long)
    scheduler.add(usual)
    assert scheduler.plan().chunks == [Chunk(long, 64, False)]
    high = sequence(3, 20)
    scheduler.add(high)
    assert scheduler.plan().chunks == [Chunk(long, 44, False), Chunk(high, 20, True)]
    scheduler.remove(long)
    scheduler.remove(high)
    scheduler.add(high)
    assert scheduler.plan().chunks == [Chunk(high, 20, True), Chunk(usual, 4, True)]


def test_a_running_one_that_a_higher_priority_follows_goes_on_as_one_of_it() -> None:
    scheduler = Scheduler(2, 64, TARGET_NS, Snapshots(0))
    leader = sequence(1, 200, priority=2)
    scheduler.add(leader)
    compute(scheduler, scheduler.plan().chunks)
    follower = sequence(1, 200)
    scheduler.add(follower)
    assert scheduler.plan().chunks == [Chunk(leader, 64, False)]
    assert (follower.leader, leader.priority) == (leader, 1)


@pytest.mark.parametrize(
    ("priority", "prompt", "computed"), [(0, 50, 50), (1, 50, 30), (0, 500, 30)]
)
def test_a_short_prompt_of_the_highest_priority_is_computed_in_one_step(
    priority: int, prompt: int, computed: int
) -> None:
    scheduler = Scheduler(2, 512, TARGET_NS, Snapshots(0))
    decoding, arriving = sequence(1, max_tokens=100), sequence(2, prompt, priority=priority)
    scheduler.add(decoding)
    compute(scheduler, scheduler.plan().chunks)
    scheduler.times.learn(0, 1, TARGET_NS // 2)
    scheduler.times.learn(10, 0, 10 * TARGET_NS // 60)
    scheduler.add(arriving)
    assert scheduler.plan().chunks[1].size == computed


def test_alone_a_prompt_gets_the_whole_batch() -> None:
    scheduler = Scheduler(2, 64, TARGET_NS, Snapshots(0))
    arriving = sequence(1, prompt=200)
    scheduler.add(arriving)
    assert scheduler.plan().chunks == [Chunk(arriving, 64, False)]


def test_a_resumed_run_is_due_when_prompt_and_answer_so_far_are_computed() -> None:
    scheduler = Scheduler(1, 64, TARGET_NS, Snapshots(0))
    resumed = sequence(1, prompt=10, max_tokens=20)
    resumed.tokens += [2] * 5
    scheduler.add(resumed)
    assert scheduler.plan().chunks == [Chunk(resumed, 15, True)]


def test_removing_one_that_waits_frees_no_slot() -> None:
    scheduler = Scheduler(1, 8, TARGET_NS, Snapshots(0))
    running, waiting = sequence(1), sequence(2)
    scheduler.add(running)
    scheduler.add(waiting)
    scheduler.plan()
    scheduler.remove(waiting)
    assert scheduler.find(2) is None
    assert scheduler.find(1) is running
    scheduler.remove(running)
    assert not scheduler.busy


@given(
    st.lists(st.tuples(st.integers(0, 512), st.integers(0, 16), st.integers(0, 10**11))),
    st.integers(1, 10**10),
    st.integers(0, 8192),
)
@example([(0, 1, 10**9), *[(1, 1, 1)] * 4000], 10**9, 512)
@example([(1, 0, 10**6), (0, 1, 10**9), *[(1, 1, 1)] * 3250], 10**8, 512)
def test_a_chunk_is_at_least_the_minimum_and_never_more_than_there_is_room_for(
    steps: list[tuple[int, int, int]], target_ns: int, room: int
) -> None:
    times = StepTimes()
    for prefill_tokens, decoding, step_ns in steps:
        times.learn(prefill_tokens, decoding, step_ns)
        assert times.decode_ns >= 0.0
        assert times.prefill_ns >= 0.0
    assert min(MIN_CHUNK, room) <= times.chunk(target_ns, room) <= room


@pytest.mark.parametrize(("decode_ms", "expected"), [(10, 40), (30, 20), (45, MIN_CHUNK)])
def test_a_chunk_fills_what_decoding_leaves_of_the_target(decode_ms: int, expected: int) -> None:
    times = StepTimes()
    times.learn(0, 4, decode_ms * 1_000_000)
    times.learn(10, 4, (decode_ms + 10) * 1_000_000)  # a millisecond for each token
    assert times.chunk(TARGET_NS, 512) == expected


def test_a_change_of_speed_is_followed_within_ten_steps() -> None:
    times = StepTimes()
    for _ in range(100):
        times.learn(100, 0, 100_000_000)
    assert times.chunk(TARGET_NS, 512) == pytest.approx(50, abs=1)
    for _ in range(10):
        times.learn(100, 0, 200_000_000)
    assert times.chunk(TARGET_NS, 512) == pytest.approx(25, abs=3)
