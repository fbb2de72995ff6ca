"""Another context while requests run: their answers are what they would have been."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from structlog.testing import capture_logs

from rayhost.ipc.messages import LoadFailed, Resize, Start, pack_tokens
from rayhost.ipc.status import Word
from rayhost.worker.snapshots import Snapshots
from tests.worker.fake_engine import VOCABULARY, FakeEngine, reference
from tests.worker.process import load_of
from tests.worker.rig import GREEDY, Rig

TOKEN = st.integers(0, VOCABULARY - 1)
SIZES = st.tuples(
    st.integers(12, 60), st.integers(1, 4), st.sampled_from(("f16", "q8_0")), st.integers(0, 800)
)


def resize(rig: Rig, context: int, slots: int, kv_type: str = "f16", room: int = 4000) -> None:
    """Send a Resize."""
    load = load_of(
        Path("of no file"),
        context=context,
        concurrency=slots,
        batch=slots + 8,
        kv_type=kv_type,
        snapshot_bytes=room,
    )
    rig.inbox.put((0, Resize(load)))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(
                st.tuples(st.lists(TOKEN, min_size=1, max_size=20), st.integers(1, 60)), max_size=2
            ),
            st.none() | SIZES,
        ),
        max_size=12,
    ),
    st.booleans(),
)
def test_a_run_is_cut_by_a_context_that_became_too_small_and_by_nothing_else(
    turns: list[tuple[list[tuple[list[int], int]], tuple[int, int, str, int] | None]], trims: bool
) -> None:
    rig = Rig(FakeEngine(slots=2, context=48, trims=trims), Snapshots(2000, trims=trims))
    context = 48
    asked: list[tuple[list[int], int]] = []
    least: list[int] = []
    for arriving, sizes in turns:
        if sizes is not None:
            context = sizes[0]
            resize(rig, *sizes)
        least = [min(one, context) for one in least]
        for prompt, max_tokens in arriving:
            rig.start(len(asked), prompt, max_tokens, stop=("ab", "c c"))
            asked.append((prompt, max_tokens))
            least.append(context)
        rig.loop.step()
    rig.finish()

    for number, (prompt, max_tokens) in enumerate(asked):
        told = rig.told(number)
        if told.rejected is not None:
            assert len(prompt) >= least[number]
            assert told.ids == []
            continue
        ids, text, reason = reference(prompt, max_tokens, GREEDY, ("ab", "c c"), context=60)
        if told.ids == ids:
            assert told.result == (ids, text, reason)
        else:  # what the smallest context holds, or all that it had when that came
            assert len(prompt) + len(told.ids) >= least[number]
            cut = reference(prompt, len(told.ids), GREEDY, ("ab", "c c"), context=60)
            assert told.result == (*cut[:2], "length")


def test_sequences_in_another_number_of_slots_compute_nothing_again() -> None:
    rig = Rig(FakeEngine(slots=2, context=200, batch=64), Snapshots(10_000))
    prompts = [[3 + number] * 40 for number in range(2)]
    for number, prompt in enumerate(prompts):
        rig.start(number, prompt, 8)
    rig.loop.step()
    rig.loop.step()
    assert rig.status[Word.PREFILL_TOKENS] == 80
    resize(rig, 100, 4, room=10_000)
    rig.finish()
    for number, prompt in enumerate(prompts):
        assert rig.told(number).result == reference(prompt, 8, GREEDY, context=200)
    assert rig.status[Word.PREFILL_TOKENS] == 80
    assert rig.engine.facts.concurrency == 4


def test_another_kv_type_computes_all_of_it_again() -> None:
    rig = Rig(FakeEngine(slots=2, context=200, batch=64), Snapshots(10_000))
    rig.start(1, [3] * 40, 8)
    rig.loop.step()
    resize(rig, 200, 2, "q8_0", room=10_000)
    rig.finish()
    assert rig.told(1).result == reference([3] * 40, 8, GREEDY, context=200)
    assert rig.status[Word.PREFILL_TOKENS] == 40 + 40  # and the token it had already: as decoded


def test_sizes_that_cannot_be_had_are_told_and_everything_goes_on_as_it_was() -> None:
    rig = Rig(FakeEngine(slots=2, context=48))
    rig.start(1, [3] * 10, 8)
    rig.loop.step()
    resize(rig, 48, 300)
    rig.finish()
    assert rig.told(1).result == reference([3] * 10, 8, GREEDY)
    assert [m for n, m in messages(rig) if n == 0] == [LoadFailed("too many sequences")]


def messages(rig: Rig) -> list[tuple[int, object]]:
    """Everything that was sent."""
    return [entry for entry in rig.out.log if not isinstance(entry, str)]


@pytest.mark.parametrize("produced", [5, 12])
def test_an_outgrown_run_is_told_what_was_held_back(produced: int) -> None:
    _, text, _ = reference([4] * 10, produced, GREEDY, context=60)
    stop = (text[-1] + "that never comes",)
    ids, _, reason = reference([4] * 10, produced, GREEDY, stop, context=60)
    assert reason == "length"
    rig = Rig(FakeEngine(context=12))
    start = Start(pack_tokens([4] * 10 + ids), 10, 1, GREEDY, stop, outgrown=True)
    rig.inbox.put((1, start))
    rig.finish()
    told = rig.told(1)
    assert told.finished is not None
    assert (told.ids, told.finished.reason, told.finished.n_generated) == ([], "length", produced)
    assert told.text == text[-1]


@pytest.mark.parametrize("left", [-4, 0])
def test_a_start_from_before_the_resize_that_outgrew_it_is_told_what_was_held_back(
    left: int,
) -> None:
    produced = 5
    _, text, _ = reference([4] * 10, produced, GREEDY, context=60)
    stop = (text[-1] + "that never comes",)
    ids, _, _ = reference([4] * 10, produced, GREEDY, stop, context=60)
    rig = Rig(FakeEngine(context=48))
    resize(rig, 10 + produced + left, 2)
    rig.start(1, [4] * 10, 30, produced=ids, stop=stop)
    rig.finish()
    assert rig.told(1).result == ([], text[-1], "length")


def test_a_start_that_was_complete_before_the_resize_is_told_so_only() -> None:
    _, text, _ = reference([4] * 10, 5, GREEDY, context=60)
    stop = (text[-1] + "that never comes",)
    ids, _, _ = reference([4] * 10, 5, GREEDY, stop, context=60)
    rig = Rig(FakeEngine(context=48))
    resize(rig, 12, 2)
    rig.start(1, [4] * 10, 5, produced=ids, stop=stop)
    rig.finish()
    assert rig.told(1).result == ([], "", "length")


def test_a_context_that_is_small_for_a_while_cuts_no_answer_that_did_not_reach_its_end() -> None:
    expected = reference([4] * 10, 30, GREEDY)
    assert len(expected[0]) == 30
    rig = Rig(FakeEngine(context=48))
    rig.start(1, [4] * 10, 30)
    rig.loop.step()
    rig.loop.step()
    resize(rig, 20, 2)
    resize(rig, 48, 2)
    rig.finish()
    assert rig.told(1).result == expected


@pytest.mark.parametrize("changes", [{"snapshot_bytes": 50}, {"threads": 2}])
def test_what_needs_no_other_context_costs_running_requests_nothing(
    changes: dict[str, int],
) -> None:
    rig = Rig(FakeEngine(slots=2, context=200, batch=64), Snapshots(0))
    rig.start(1, [3] * 40, 8)
    rig.loop.step()
    load = load_of(Path("of no file"), context=200, concurrency=2, batch=64)
    rig.inbox.put((0, Resize(structs.replace(load, **changes))))
    rig.finish()
    assert rig.told(1).result == reference([3] * 40, 8, GREEDY, context=200)
    assert rig.status[Word.PREFILL_TOKENS] == 40
    assert rig.snapshots.limit_bytes == changes.get("snapshot_bytes", 0)


PRELOAD = [5] * 40
ROOM = 10_000


def preloaded(context: int = 100, slots: int = 2) -> Rig:
    """Return a rig whose snapshot store holds PRELOAD, as at the start of a worker."""
    engine = FakeEngine(slots=slots, context=context, batch=64)
    rig = Rig(engine, Snapshots(ROOM), preload=[PRELOAD])
    rig.loop.preload()
    rig.status[Word.PREFILL_TOKENS] = 0
    return rig


def holds(rig: Rig) -> bool:
    """Tell whether the store of a rig has PRELOAD, whatever comes."""
    return rig.snapshots.holds(pack_tokens(PRELOAD))


def test_a_context_without_room_for_a_preload_is_refused_and_nothing_is_disturbed() -> None:
    rig = preloaded()
    rig.start(1, [3] * 10, 8)
    rig.loop.step()
    resize(rig, 40, 2, room=ROOM)
    rig.finish()
    reason = "preload prompt 1 has 40 tokens; the context is 40"
    assert [m for n, m in messages(rig) if n == 0] == [LoadFailed(reason)]
    assert rig.told(1).result == reference([3] * 10, 8, GREEDY, context=100)
    assert rig.engine.facts.context == 100
    assert rig.status[Word.PREFILL_TOKENS] == 10
    resize(rig, 41, 2, room=ROOM)
    rig.loop.step()
    assert rig.engine.facts.context == 41


def test_requests_go_on_before_a_preload_is_computed_for_another_kv_type() -> None:
    rig = preloaded()
    rig.start(1, [3] * 10, 30)
    rig.loop.step()
    resize(rig, 100, 2, "q8_0", room=ROOM)
    rig.start(2, [*PRELOAD, 3, 4], 8)
    rig.loop.step()
    rig.loop.step()
    assert len(rig.told(1).ids) == 2
    assert not holds(rig)
    rig.finish()
    rig.loop.preload()
    for number, prompt, most in ((1, [3] * 10, 30), (2, [*PRELOAD, 3, 4], 8)):
        assert rig.told(number).result == reference(prompt, most, GREEDY, context=100)
    assert holds(rig)
    # Of the first its prompt twice; of the second its own, of which the preload is all but a token.
    assert rig.status[Word.PREFILL_TOKENS] == 10 + 10 + 42 + 1
    assert rig.status[Word.REUSED_IDLE] + rig.status[Word.REUSED_BUSY] == 0


def test_a_preload_comes_back_with_the_room_that_it_lost() -> None:
    rig = preloaded()
    with capture_logs() as lines:
        resize(rig, 100, 2, room=200)
        rig.loop.step()
    assert [(line["event"], line["prompt"]) for line in lines] == [
        ("preload does not fit into snapshots.ram_mb", 1)
    ]
    assert not holds(rig)
    assert not rig.loop._busy  # there is nothing that could be done about it
    resize(rig, 100, 2, room=ROOM)
    rig.loop.step()
    rig.loop.preload()
    assert holds(rig)


def test_who_begins_as_a_preload_that_is_being_computed_waits_for_it_and_computes_the_rest() -> (
    None
):
    rig = preloaded()
    resize(rig, 100, 3, "q8_0", room=ROOM)  # 11 tokens a step
    rig.loop.step()
    rig.start(1, [*PRELOAD, 3, 4], 8)
    rig.finish()
    assert rig.told(1).result == reference([*PRELOAD, 3, 4], 8, GREEDY, context=100)
    assert rig.status[Word.PREFILL_TOKENS] == 42 + (rig.told(1).reused == 39)
    assert holds(rig)


def test_a_preload_gives_its_slot_to_whoever_comes_and_goes_on_where_it_was() -> None:
    rig = preloaded(slots=2)
    resize(rig, 100, 2, "q8_0", room=ROOM)  # 10 tokens a step
    rig.loop.step()
    rig.loop.step()
    for number in (1, 2):
        rig.start(number, [number] * 10, 8)
    rig.loop.step()
    rig.loop.step()
    assert {sequence.request_id for sequence in rig.loop.scheduler.running} == {1, 2}
    rig.finish()
    rig.loop.preload()
    for number in (1, 2):
        assert rig.told(number).result == reference([number] * 10, 8, GREEDY, context=100)
    assert holds(rig)
    assert rig.status[Word.PREFILL_TOKENS] < 20 + 2 * 40  # what it had was not lost


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), max_size=3),
            st.none() | SIZES.filter(lambda sizes: sizes[0] > 48),
        ),
        max_size=10,
    ),
    st.booleans(),
)
def test_whatever_happens_preloads_disturb_no_answer_and_are_there_in_the_end(
    turns: list[tuple[list[tuple[int, int]], tuple[int, int, str, int] | None]], trims: bool
) -> None:
    preload = [[7] * 30, [7] * 20 + [3] * 5, [9] * 12]
    engine = FakeEngine(slots=2, context=80, trims=trims)
    rig = Rig(engine, Snapshots(ROOM, trims=trims), preload=preload)
    asked: list[list[int]] = []
    for arriving, sizes in turns:
        if sizes is not None:
            resize(rig, *sizes)
        for shared, own in arriving:
            rig.start(len(asked), [*([7] * 30)[:shared], *[1 + own % 6] * (own % 10 + 1)], 4)
            asked.append([*([7] * 30)[:shared], *[1 + own % 6] * (own % 10 + 1)])
        rig.loop.step()
    resize(rig, 80, 2, "f16", room=ROOM)
    rig.finish()
    rig.loop.preload()
    for number, prompt in enumerate(asked):
        assert rig.told(number).result == reference(prompt, 4, GREEDY, context=80)
    assert all(rig.snapshots.holds(pack_tokens(tokens)) for tokens in preload)
    assert -1 not in rig.out.told
