"""The cache of answers: it never exceeds its bounds, and what it returns is what was put."""

import random
import tracemalloc

import pytest

from rayhost.front.request import Finish
from rayhost.front.result_cache import OVERHEAD, ResultCache

FINISH = Finish("stop", prompt_tokens=3, completion_tokens=2)
SECOND = 1_000_000_000


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns


def put(cache: ResultCache, key: str, text: str = "", model: str = "m") -> None:
    cache.put(key.encode(), model, [text], FINISH)


def has(cache: ResultCache, key: str) -> bool:
    return cache.get(key.encode()) is not None


def test_an_answer_comes_back_whole_and_in_its_pieces() -> None:
    cache = ResultCache(1 << 20, 60)
    pieces = ["Hel", "lo", " wörld", "🦙"]
    cache.put(b"k", "m", pieces, FINISH)
    found = cache.get(b"k")
    assert found is not None
    assert (found.model, found.text) == ("m", "Hello wörld🦙")
    # Nothing of its prompt is computed for whoever gets it from here.
    assert found.finish == Finish("stop", 3, 2, reused_tokens=3)
    assert [one.text for one in found.pieces()] == pieces


def test_an_answer_without_text_is_an_answer() -> None:
    cache = ResultCache(1 << 20, 60)
    cache.put(b"k", "m", [], FINISH)
    found = cache.get(b"k")
    assert found is not None
    assert (found.text, list(found.pieces())) == ("", [])


def test_what_was_never_put_is_not_there() -> None:
    assert ResultCache(1 << 20, 60).get(b"k") is None


def test_an_answer_tells_its_age_until_it_is_too_old() -> None:
    clock = Clock()
    cache = ResultCache(1 << 20, 60, clock)
    put(cache, "a")
    clock.ns = 60 * SECOND - 1
    found = cache.get(b"a")
    assert found is not None
    assert found.age_s == 59
    clock.ns += 1
    assert not has(cache, "a")
    assert (len(cache), cache.bytes_used) == (0, 0)


def test_what_is_too_old_makes_room_however_often_it_was_used() -> None:
    clock = Clock()
    cache = ResultCache(1 << 20, 60, clock)
    put(cache, "old")
    for _ in range(100):
        assert has(cache, "old")
    clock.ns = 30 * SECOND
    put(cache, "young")
    clock.ns = 60 * SECOND
    put(cache, "new")
    assert len(cache) == 2
    assert has(cache, "young")


def test_an_answer_put_again_is_young_again() -> None:
    clock = Clock()
    cache = ResultCache(1 << 20, 60, clock)
    put(cache, "a", "first")
    put(cache, "b")
    clock.ns = 59 * SECOND
    put(cache, "a", "second")
    clock.ns = 61 * SECOND
    put(cache, "c")
    found = cache.get(b"a")
    assert found is not None
    assert (found.text, len(cache)) == ("second", 2)


def test_what_is_asked_for_most_stays() -> None:
    cache = ResultCache(10 * (OVERHEAD + 1000), 60)
    put(cache, "hot", "x" * 800)
    for n in range(100):
        assert has(cache, "hot")
        put(cache, f"once {n}", "x" * 800)
    assert has(cache, "hot")
    assert not has(cache, "once 0")
    assert len(cache) == 10


def test_the_bound_is_never_exceeded() -> None:
    draw = random.Random(7)
    limit = 50_000
    cache = ResultCache(limit, 60)
    for _ in range(2_000):
        put(cache, str(draw.randrange(100)), "x" * draw.randrange(20_000))
        cache.get(str(draw.randrange(100)).encode())
        assert 0 < cache.bytes_used <= limit


def test_an_answer_larger_than_the_cache_costs_nobody_their_place() -> None:
    cache = ResultCache(10_000, 60)
    put(cache, "small")
    put(cache, "large", "x" * 10_000)
    assert has(cache, "small")
    assert not has(cache, "large")


def test_a_cache_of_no_bytes_keeps_nothing() -> None:
    cache = ResultCache(0, 60)
    put(cache, "a")
    assert (len(cache), has(cache, "a")) == (0, False)


def test_a_model_is_dropped_without_the_others() -> None:
    cache = ResultCache(1 << 20, 60)
    for n in range(3):
        put(cache, f"one {n}", model="one")
    put(cache, "two", model="two")
    assert cache.drop("one") == 3
    assert (len(cache), has(cache, "two")) == (1, True)
    assert cache.drop("one") == 0


def test_everything_can_be_forgotten() -> None:
    cache = ResultCache(1 << 20, 60)
    put(cache, "a")
    assert cache.clear() == 1
    assert (len(cache), cache.bytes_used, cache.clear()) == (0, 0, 0)
    put(cache, "a")
    assert has(cache, "a")


@pytest.mark.parametrize("characters", [10, 2_000])
def test_the_bound_is_one_of_real_memory(characters: int) -> None:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        cache = ResultCache(1 << 30, 60)
        for n in range(2_000):
            pieces = ["x" * 5] * (characters // 5)
            cache.put(n.to_bytes(32, "little"), "m", pieces, Finish("stop", 300 + n, 300 + n))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cache.bytes_used * 0.6 < after - before <= cache.bytes_used


def test_how_an_answer_writes_calls_is_kept_with_it() -> None:
    cache = ResultCache(1 << 20, 60)
    cache.put(b"a", "m", ["x"], Finish("stop", 1, 1), tool_syntax="hermes", fingerprint="fp_1")
    found = cache.get(b"a")
    assert found is not None
    assert (found.tool_syntax, found.fingerprint) == ("hermes", "fp_1")


def test_a_smaller_limit_drops_what_is_used_least_and_a_larger_one_keeps_more_again() -> None:
    cache = ResultCache(1 << 20, 60)
    for key in "abcd":
        put(cache, key)
    each = cache.bytes_used // 4
    assert has(cache, "c")
    cache.limit(2 * each)
    assert (len(cache), cache.bytes_used, cache.limit_bytes) == (2, 2 * each, 2 * each)
    assert has(cache, "c")
    put(cache, "e")
    assert cache.bytes_used <= 2 * each
    cache.limit(1 << 20)
    put(cache, "f")
    assert len(cache) == 3
    cache.limit(0)
    assert (len(cache), cache.bytes_used) == (0, 0)
    put(cache, "g")
    assert len(cache) == 0
