"""Which snapshots are kept, which go, and which one a request begins with."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhost.engine.base import State
from rayhost.ipc.messages import pack_tokens, unpack_tokens
from rayhost.worker.snapshots import Snapshot, Snapshots
from rayhost.worker.token_keys import TOKEN_BYTES, common

UNBOUNDED = 1 << 40


def state(size_bytes: int, tokens: list[int]) -> State:
    """Return cells that make a snapshot of these tokens exactly this large."""
    return np.zeros(size_bytes - TOKEN_BYTES * len(tokens), np.uint8)


def put(
    store: Snapshots, tokens: list[int], size_bytes: int, saved_ms: float, *, pinned: bool = False
) -> bool:
    """Put a snapshot of exactly this size; return whether it is held."""
    store.put(tokens, state(size_bytes, tokens), saved_ms, pinned=pinned)
    return tokens in held(store)


def held(store: Snapshots) -> list[list[int]]:
    """Return the tokens of everything in the store, in the order of `hottest`."""
    return [unpack_tokens(snapshot.tokens) for snapshot in store.hottest(UNBOUNDED)]


def find(store: Snapshots, tokens: list[int]) -> Snapshot:
    """Return the snapshot of exactly these tokens."""
    found, length = store.best([*tokens, 0], exact=True)
    assert found is not None
    assert length == len(tokens)
    return found


def use(store: Snapshots, tokens: list[int]) -> None:
    """Use all of the snapshot of exactly these tokens."""
    store.used(find(store, tokens), len(tokens))


@pytest.mark.parametrize(
    ("stored", "tokens", "exact", "of", "length"),
    [
        ([[1, 2, 3]], [1, 2, 3, 4], True, [1, 2, 3], 3),
        ([[1, 2, 3]], [1, 2, 3], True, None, 0),  # the last token is always computed
        ([[1, 2, 3]], [1, 2, 3], False, [1, 2, 3], 2),
        ([[1, 2, 9]], [1, 2, 3, 4], True, None, 0),
        ([[1, 2, 9]], [1, 2, 3, 4], False, [1, 2, 9], 2),
        ([[1, 2], [1, 2, 2, 2]], [1, 2, 3], True, [1, 2], 2),  # what stands between does not fit
        ([[1], [1, 2], [1, 1], [1, 2, 2]], [1, 2, 3, 3], True, [1, 2], 2),
        ([[5], [7, 7, 7], [7, 9]], [7, 8], False, [7, 7, 7], 1),
        ([[256]], [1, 1], False, None, 0),  # alike in bytes, not in tokens
        ([[5]], [6, 6], False, None, 0),
        ([[5]], [5], False, None, 0),
        ([[5]], [], False, None, 0),
        ([], [1, 2], True, None, 0),
    ],
)
def test_a_request_begins_with_the_longest_that_it_can_use(
    stored: list[list[int]], tokens: list[int], exact: bool, of: list[int] | None, length: int
) -> None:
    store = Snapshots(UNBOUNDED, trims=False)
    for each in stored:
        put(store, each, 100, 1.0)
    found, shared = store.best(tokens, exact=exact)
    assert (found and unpack_tokens(found.tokens), shared) == (of, length)


TOKENS = st.lists(st.sampled_from([0, 1, 256]), min_size=1, max_size=7)


def shared(one: list[int], other: list[int]) -> int:
    """Count what both begin with, one by one."""
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return len(list(pairs))


@given(st.lists(TOKENS, max_size=30), TOKENS, st.booleans(), st.booleans())
def test_the_search_finds_what_trying_every_snapshot_would(
    stored: list[list[int]], tokens: list[int], exact: bool, trims: bool
) -> None:
    store = Snapshots(UNBOUNDED, trims=trims)
    for each in stored:
        put(store, each, 100, 1.0)
    want = tokens[:-1]
    usable = [each for each in held(store) if not exact or each == want[: len(each)]]
    found, length = store.best(tokens, exact=exact)
    assert length == max((shared(each, want) for each in usable), default=0)
    if found is None:
        assert length == 0
    else:
        assert unpack_tokens(found.tokens) in usable
        assert shared(unpack_tokens(found.tokens), want) == length


@given(TOKENS, TOKENS)
def test_what_two_have_in_common_is_counted_in_tokens(one: list[int], other: list[int]) -> None:
    assert common(pack_tokens(one), pack_tokens(other)) == shared(one, other)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "pin", "use", "worth"]),
        TOKENS,
        st.integers(28, 400),
        st.floats(0, 1000),
    ),
    max_size=40,
)


@given(OPERATIONS, st.integers(0, 1000), st.booleans())
def test_the_limit_holds_and_what_is_pinned_stays_whatever_happens(
    operations: list[tuple[str, list[int], int, float]], limit: int, trims: bool
) -> None:
    store = Snapshots(limit, trims=trims)
    pinned: list[list[int]] = []
    for what, tokens, size, saved_ms in operations:
        if what == "use":
            found, length = store.best([*tokens, 0], exact=False)
            if found is not None:
                store.used(found, length)
        elif what == "worth":
            if store.worth(tokens, state(size, tokens).nbytes, saved_ms):
                assert put(store, tokens, size, saved_ms)
        elif put(store, tokens, size, saved_ms, pinned=what == "pin") and what == "pin":
            pinned.append(tokens)
        here = store.hottest(UNBOUNDED)
        assert store.bytes_used == sum(each.size_bytes for each in here) <= limit
        assert len(store) == len(here)
        assert all(each in held(store) for each in pinned)
        if trims:  # nothing is held twice
            for one, other in itertools.permutations(held(store), 2):
                assert one != other[: len(one)] or one in pinned


SIZED = st.lists(st.tuples(st.integers(4, 100), st.floats(0.1, 1000)), min_size=1, max_size=12)


@given(SIZED, st.integers(4, 300), st.floats(0.1, 1000))
def test_what_saves_least_for_its_bytes_goes_first(
    stored: list[tuple[int, float]], size: int, saved_ms: float
) -> None:
    store = Snapshots(sum(size for size, _ in stored))  # full
    rank = {n: ms / bytes_ for n, (bytes_, ms) in enumerate(stored)}
    for n, (bytes_, ms) in enumerate(stored):
        assert put(store, [n], bytes_, ms)
    kept = put(store, [99], size, saved_ms)
    left = {tokens[0] for tokens in held(store)} - {99}
    gone = rank.keys() - left
    if not kept:
        assert not gone
        assert size > sum(b for n, (b, _) in enumerate(stored) if rank[n] <= saved_ms / size)
    else:
        worst_gone = max(rank[n] for n in gone)
        assert worst_gone <= saved_ms / size
        assert worst_gone <= min((rank[n] for n in left), default=worst_gone)
        # The last one to go was needed.
        assert (
            sum(stored[n][0] for n in gone)
            - min(stored[n][0] for n in gone if rank[n] == worst_gone)
            < size
        )


def full(*, uses_of_first: int = 0) -> Snapshots:
    """Return a store of four equal snapshots, [0] to [3], with no room for a fifth."""
    store = Snapshots(400)
    for n in range(4):
        assert put(store, [n], 100, 10.0)
    for _ in range(uses_of_first):
        use(store, [0])
    return store


def test_what_is_used_outlives_what_is_not() -> None:
    store = full(uses_of_first=1)
    for n in range(4, 7):
        assert put(store, [n], 100, 10.0)
    assert sorted(held(store)) == [[0], [4], [5], [6]]


def test_what_was_popular_once_is_overtaken_in_time() -> None:
    store = full(uses_of_first=3)
    survived = 0
    while [0] in held(store):
        assert put(store, [survived + 4], 100, 10.0)
        survived += 1
    assert 3 * 3 <= survived <= 4 * 3  # a use is worth one turn of the other three


def test_a_store_of_once_popular_snapshots_does_not_refuse_for_ever() -> None:
    store = full()
    for n in range(4):
        for _ in range(3):
            use(store, [n])
    refused = 0
    while not put(store, [refused + 4], 100, 10.0):
        refused += 1
        assert refused < 100
    assert refused >= 4  # not for the first that comes by, either


def test_using_a_part_counts_for_that_part() -> None:
    store = Snapshots(200)
    put(store, [1, 1, 1, 1], 100, 10.0)
    put(store, [2, 2, 2, 2], 100, 10.0)
    for _ in range(3):
        store.used(find(store, [1, 1, 1, 1]), 1)
    use(store, [2, 2, 2, 2])
    assert find(store, [1, 1, 1, 1]).value_ms == pytest.approx(17.5)
    assert find(store, [2, 2, 2, 2]).value_ms == pytest.approx(20.0)
    assert held(store)[0] == [2, 2, 2, 2]


def test_what_was_evicted_after_it_was_found_may_still_be_used() -> None:
    store = Snapshots(100)
    put(store, [1], 100, 1.0)
    found = find(store, [1])
    assert put(store, [2], 100, 9.0)
    store.used(found, 1)
    assert held(store) == [[2]]


def test_a_longer_snapshot_takes_the_place_and_the_merits_of_its_beginning() -> None:
    store = Snapshots(1000)
    put(store, [1, 2], 100, 10.0)
    use(store, [1, 2])
    assert put(store, [1, 2, 3], 150, 15.0)
    assert held(store) == [[1, 2, 3]]
    assert find(store, [1, 2, 3]).value_ms == pytest.approx(35.0)
    assert store.bytes_used == 150


def test_a_beginning_stays_where_states_cannot_be_cut() -> None:
    store = Snapshots(1000, trims=False)
    put(store, [1, 2, 3], 150, 15.0)
    assert store.worth([1, 2], 92, 10.0)
    put(store, [1, 2], 100, 10.0)
    assert sorted(held(store)) == [[1, 2], [1, 2, 3]]


def test_what_a_longer_one_holds_is_not_stored_again() -> None:
    store = Snapshots(1000)
    put(store, [1, 2, 3], 150, 15.0)
    assert not store.worth([1, 2], 92, 10.0)
    assert not store.worth([1, 2, 3], 138, 10.0)
    assert store.add(Snapshot(pack_tokens([1, 2]), state(100, [1, 2]), 10.0, 10.0))
    assert held(store) == [[1, 2, 3]]


def test_what_is_pinned_is_stored_beside_a_longer_one_that_may_go() -> None:
    store = Snapshots(300)
    put(store, [1, 2, 3], 150, 15.0)
    assert put(store, [1, 2], 100, 10.0, pinned=True)
    assert put(store, [9], 150, 100.0)
    assert sorted(held(store)) == [[1, 2], [9]]


def test_what_is_pinned_goes_for_nothing_and_is_first() -> None:
    store = full()
    assert put(store, [0], 100, 10.0, pinned=True)  # here already: now it stays
    for n in range(4, 20):
        assert put(store, [n], 100, 1000.0)
    assert held(store)[0] == [0]
    assert put(store, [0, 1], 100, 5000.0)  # a longer one does not replace it either
    assert [0] in held(store)


def test_pinned_snapshots_are_refused_where_only_pinned_ones_are_left() -> None:
    store = Snapshots(250)
    assert put(store, [1], 100, 1.0, pinned=True)
    assert put(store, [2], 100, 1000.0)
    assert put(store, [3], 150, 1.0, pinned=True)
    assert not put(store, [4], 50, 1.0, pinned=True)
    assert sorted(held(store)) == [[1], [3]]


def test_what_can_never_fit_is_refused_and_ages_nothing() -> None:
    store = full(uses_of_first=1)
    before = held(store)
    for _ in range(100):
        assert not store.worth([9], 1000, 1e9)
        assert not put(store, [9], 1000, 1e9, pinned=True)
    assert put(store, [4], 100, 10.0)
    assert held(store) != before
    assert [0] in held(store)


def test_a_store_of_no_bytes_refuses_everything() -> None:
    store = Snapshots(0)
    assert not store.worth([1], 0, 1.0)
    assert not put(store, [1], 4, 1.0, pinned=True)


def test_a_snapshot_of_nothing_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        Snapshots(100).put([], np.zeros(8, np.uint8), 1.0)


def test_the_hottest_fill_a_limit_best_first() -> None:
    store = Snapshots(1000)
    put(store, [1], 100, 1.0, pinned=True)
    put(store, [2], 300, 900.0)
    put(store, [3], 100, 200.0)
    put(store, [4], 100, 100.0)
    hottest = [unpack_tokens(snapshot.tokens) for snapshot in store.hottest(300)]
    assert hottest == [[1], [3], [4]]
    assert store.hottest(0) == []
