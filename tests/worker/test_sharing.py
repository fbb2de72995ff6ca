"""The step loop where requests begin alike: the same answers for less work."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayhost.engine.base import EngineFailed, State
from rayhost.ipc.status import Word
from rayhost.worker.snapshots import Snapshots
from tests.worker.fake_engine import VOCABULARY, FakeEngine, reference
from tests.worker.rig import GREEDY, Rig

CONTEXT = 160
SYSTEM = [1, 2, 3, 4, 5, 6, 7, 8] * 6
OTHER = [8, 7, 6, 5] * 10


@dataclass(frozen=True)
class Arrival:
    """A request that begins with some of one of two texts."""

    text: list[int]
    shared: int
    own: list[int]
    max_tokens: int
    cancelled_after: int | None
    priority: int

    @property
    def prompt(self) -> list[int]:
        return self.text[: self.shared] + self.own


ARRIVALS = st.lists(
    st.lists(
        st.builds(
            Arrival,
            text=st.sampled_from((SYSTEM, OTHER)),
            shared=st.integers(0, 48),
            own=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=30),
            max_tokens=st.integers(1, 20),
            cancelled_after=st.none() | st.integers(0, 8),
            priority=st.integers(0, 1),
        ),
        max_size=4,
    ),
    max_size=8,
)


@settings(max_examples=300, deadline=None)
@given(ARRIVALS, st.integers(1, 4), st.integers(0, 60), st.booleans(), st.integers(0, 2000))
def test_whoever_shares_what_with_whom_every_answer_is_as_if_alone(
    turns: list[list[Arrival]], slots: int, spare: int, trims: bool, snapshot_bytes: int
) -> None:
    engine = FakeEngine(slots=slots, context=CONTEXT, batch=slots + spare, trims=trims)
    rig = Rig(engine, Snapshots(snapshot_bytes, trims=trims))
    arrivals: list[Arrival] = []
    cancels: dict[int, list[int]] = {}
    for turn, arriving in enumerate(turns):
        for arrival in arriving:
            number = len(arrivals)
            arrivals.append(arrival)
            rig.start(number, arrival.prompt, arrival.max_tokens, priority=arrival.priority)
            if arrival.cancelled_after is not None:
                cancels.setdefault(turn + arrival.cancelled_after, []).append(number)
        for number in cancels.pop(turn, ()):
            rig.cancel(number)
        rig.loop.step()
    for numbers in cancels.values():
        for number in numbers:
            rig.cancel(number)
        rig.loop.step()
    rig.finish()

    for number, arrival in enumerate(arrivals):
        told = rig.told(number)
        expected = reference(arrival.prompt, arrival.max_tokens, GREEDY, context=CONTEXT)
        if told.finished is None:
            assert arrival.cancelled_after is not None
            assert told.ids == expected[0][: len(told.ids)]
        else:
            assert told.result == expected
            assert told.reused is not None
            assert 0 <= told.reused < len(arrival.prompt)


def rig_of(slots: int, *, batch: int = 64, trims: bool = True, room: int = 0) -> Rig:
    engine = FakeEngine(slots=slots, context=CONTEXT, batch=batch, trims=trims)
    return Rig(engine, Snapshots(room, trims=trims))


def prefilled(rig: Rig) -> int:
    """Return the prompt tokens that were computed so far."""
    return rig.status[Word.PREFILL_TOKENS]


def ask(rig: Rig, number: int, prompt: list[int], max_tokens: int = 3) -> int:
    """Run a request to its end, and return how many tokens of its prompt were reused."""
    rig.start(number, prompt, max_tokens)
    rig.finish()
    told = rig.told(number)
    assert told.result == reference(prompt, max_tokens, GREEDY, context=CONTEXT)
    assert told.reused is not None
    return told.reused


def test_a_conversation_goes_on_in_its_slot() -> None:
    rig = rig_of(3)
    ask(rig, 1, SYSTEM)
    conversation = [*SYSTEM, *rig.told(1).ids]
    before = prefilled(rig)
    # All but the last token of the answer, which nothing was computed from.
    assert ask(rig, 2, [*conversation, 7, 8]) == len(conversation) - 1
    assert prefilled(rig) - before == 3
    assert rig.status[Word.REUSED_IDLE] == 1
    assert rig.status[Word.REUSED_IDLE_TOKENS] == len(conversation) - 1


@pytest.mark.parametrize("trims", [True, False])
@pytest.mark.parametrize("batch", [16, 64])
def test_what_arrives_together_computes_a_common_beginning_once(batch: int, trims: bool) -> None:
    rig = rig_of(8, batch=batch, trims=trims)
    for number in range(8):
        rig.start(number, [*SYSTEM, number + 1, 9], 4)
    rig.finish()
    assert prefilled(rig) == len(SYSTEM) + 8 * 2
    assert rig.status[Word.REUSED_BUSY] == 7
    assert rig.status[Word.REUSED_BUSY_TOKENS] == 7 * len(SYSTEM)
    for number in range(8):
        assert rig.told(number).result == reference(
            [*SYSTEM, number + 1, 9], 4, GREEDY, context=CONTEXT
        )


def test_who_comes_late_joins_the_prefill_under_way() -> None:
    rig = rig_of(2, batch=16)
    rig.start(1, [*SYSTEM, 1], 2)
    rig.loop.step()
    rig.start(2, [*SYSTEM, 2], 2)
    rig.finish()
    assert prefilled(rig) == len(SYSTEM) + 2


def test_followers_find_another_way_when_their_leader_leaves() -> None:
    rig = rig_of(3, batch=24)
    for number in range(3):
        rig.start(number, [*SYSTEM, number], 2)
    rig.loop.step()
    rig.cancel(0)
    rig.finish()
    # What the leader had computed is not lost either.
    assert prefilled(rig) == len(SYSTEM) + 2
    assert rig.told(2).result == reference([*SYSTEM, 2], 2, GREEDY, context=CONTEXT)


def test_a_conversation_that_lost_its_slot_comes_back_from_a_snapshot() -> None:
    rig = rig_of(1, room=10_000)
    rig.loop.scheduler.times.prefill_ns = 1e6
    ask(rig, 1, SYSTEM)
    assert ask(rig, 2, OTHER) == 0
    assert rig.status[Word.SNAPSHOTS] == 1
    before = prefilled(rig)
    assert ask(rig, 3, [*SYSTEM, 3, 1, 4]) == len(SYSTEM)
    assert prefilled(rig) - before == 3
    assert rig.status[Word.REUSED_RAM_TOKENS] == len(SYSTEM)


def test_a_copy_that_would_stall_the_step_is_not_made() -> None:
    class Slow(FakeEngine):
        copies = 0

        def snapshot(self, slot: int) -> State:
            self.copies += 1
            for _ in range(100):  # of the rig's milliseconds, where a step may spend five
                next(rig.clock)
            return super().snapshot(slot)

    engine = Slow(slots=1, context=CONTEXT, batch=64)
    rig = Rig(engine, Snapshots(10_000))
    rig.loop.scheduler.times.prefill_ns = 1e6
    for number, prompt in enumerate((SYSTEM, OTHER, SYSTEM, OTHER)):
        ask(rig, number, prompt)
    assert engine.copies == 1  # which told how long the next would take
    assert rig.status[Word.SNAPSHOTS] == 1


def test_without_trimming_the_second_request_leaves_a_copy_for_the_third() -> None:
    rig = rig_of(2, trims=False, room=10_000)
    assert ask(rig, 1, [*SYSTEM, 1, 2]) == 0
    assert ask(rig, 2, [*SYSTEM, 3, 4]) == 0
    assert ask(rig, 3, [*SYSTEM, 5, 6]) == len(SYSTEM)


@pytest.mark.parametrize("trims", [True, False])
def test_who_follows_a_refused_snapshot_computes_it_too(trims: bool) -> None:
    class Choosy(FakeEngine):
        def restore(self, slot: int, state: State) -> None:
            if self.choosy:
                raise EngineFailed("not these bytes")
            super().restore(slot, state)

        choosy = True

        def copy(self, source: int, target: int, length: int) -> None:
            self.choosy = False
            super().copy(source, target, length)
            self.choosy = True

    engine = Choosy(slots=2, context=CONTEXT, batch=64, trims=trims)
    snapshots = Snapshots(10_000, trims=trims)
    snapshots.put(SYSTEM, np.zeros(200, np.uint8), 100.0)
    rig = Rig(engine, snapshots)
    for number in (1, 2):
        rig.start(number, [*SYSTEM, number, 9], 4)
    rig.finish()
    for number in (1, 2):
        assert rig.told(number).result == reference(
            [*SYSTEM, number, 9], 4, GREEDY, context=CONTEXT
        )
    assert len(snapshots) == 0 or not trims


def test_a_burst_leaves_its_beginning_for_those_who_come_after_it() -> None:
    rig = rig_of(4, trims=False, room=10_000)
    for number in range(4):
        rig.start(number, [*SYSTEM, number, 9], 2)
    rig.finish()
    assert ask(rig, 9, [*SYSTEM, 7, 7]) == len(SYSTEM)
