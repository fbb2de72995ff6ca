"""The status page: words of 64 bits, each on its own."""

import pytest

from rayhost.ipc.status import STEP_SIZES, STEP_TIMES, Spread, StatusPage, Word


def test_each_word_keeps_its_own_value() -> None:
    page = StatusPage(memoryview(bytearray(4032)))
    for word in Word:
        page[word] = 2**64 - 1 - word
    assert [page[word] for word in Word] == [2**64 - 1 - word for word in Word]


def test_words_start_at_zero() -> None:
    page = StatusPage(memoryview(bytearray(4032)))
    assert {page[word] for word in Word} == {0}


def test_a_value_counts_for_the_first_bound_that_it_is_not_over() -> None:
    page = StatusPage(memoryview(bytearray(4032)))
    spread = Spread(400, (1, 10, 100))
    for value in (0, 1, 2, 10, 11, 100, 101, 10**15):
        page.observe(spread, value)
    assert page.counts(spread) == (2, 2, 2, 2)


def test_words_and_spreads_do_not_share_a_word() -> None:
    page = StatusPage(memoryview(bytearray(4032)))
    for word in Word:
        page[word] = 1
    for spread in (STEP_TIMES, STEP_SIZES):
        assert set(page.counts(spread)) == {0}
        for bound in (*spread.bounds, spread.bounds[-1] + 1):
            page.observe(spread, bound)
    for spread in (STEP_TIMES, STEP_SIZES):
        assert set(page.counts(spread)) == {1}
    assert {page[word] for word in Word} == {1}


@pytest.mark.parametrize("value", [-1, 2**64])
def test_a_value_beyond_64_bits_is_refused(value: int) -> None:
    page = StatusPage(memoryview(bytearray(4032)))
    with pytest.raises(ValueError, match="invalid value"):
        page[Word.STEP] = value


def test_a_released_page_cannot_be_read() -> None:
    memory = bytearray(4032)
    page = StatusPage(memoryview(memory))
    page.release()
    memory.extend(b"x")  # would raise BufferError while a view is left
    with pytest.raises(ValueError, match="released"):
        page[Word.STEP]
