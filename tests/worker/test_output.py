"""TextStream: whole characters, and never part of a stop string, wherever the tokens are cut."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rayhost.worker.output import TextStream
from tests.worker.text_oracle import cut_at_stop

# Few letters, so that stop strings appear, overlap and begin without ending.
TEXT = st.text("ab\u00e9\U0001f600", max_size=30)
STOPS = st.lists(st.text("ab\u00e9\U0001f600", min_size=1, max_size=5), max_size=4).map(tuple)
CUTS = st.lists(st.integers(0, 100), max_size=12)


def pieces(raw: bytes, cuts: list[int]) -> list[bytes]:
    """Cut bytes at these places; pieces may be empty."""
    borders = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    return [raw[start:end] for start, end in itertools.pairwise(borders)]


@given(TEXT, STOPS, CUTS)
@example("abcd", ("abcd", "bc"), [])
@example("aab", ("ab",), [1, 2])
def test_the_text_is_what_one_character_at_a_time_would_give(
    text: str, stops: tuple[str, ...], cuts: list[int]
) -> None:
    stream = TextStream(stops)
    expected, stopped = cut_at_stop(text, stops)
    emitted = ""
    for piece in pieces(text.encode(), cuts):
        emitted += stream.push(piece)
        assert expected.startswith(emitted)  # so no part of the stop string is ever out
    assert stream.stopped == stopped
    assert emitted + stream.close() == expected


@given(TEXT, STOPS, CUTS)
def test_nothing_is_held_back_that_cannot_become_a_stop_string(
    text: str, stops: tuple[str, ...], cuts: list[int]
) -> None:
    stream = TextStream(stops)
    emitted = "".join(stream.push(piece) for piece in pieces(text.encode(), cuts))
    if not stream.stopped:
        held = text[len(emitted) :]
        assert held == "" or any(stop.startswith(held) for stop in stops)


@given(st.binary(max_size=40), CUTS)
@example(b"\xf0\x9f\x98", [1, 2])
@example(b"\xed\xa0\x80", [1])
def test_bytes_that_are_no_utf_8_become_replacement_characters(raw: bytes, cuts: list[int]) -> None:
    stream = TextStream()
    emitted = "".join(stream.push(piece) for piece in pieces(raw, cuts))
    assert emitted + stream.close() == raw.decode(errors="replace")


@given(st.binary(max_size=40), STOPS, CUTS)
def test_bad_bytes_and_stop_strings_together_end_where_the_whole_would(
    raw: bytes, stops: tuple[str, ...], cuts: list[int]
) -> None:
    stream = TextStream(stops)
    emitted = "".join(stream.push(piece) for piece in pieces(raw, cuts))
    assert emitted + stream.close() == cut_at_stop(raw.decode(errors="replace"), stops)[0]


@given(TEXT, STOPS, CUTS)
def test_pushing_the_same_pieces_again_gives_the_same_state(
    text: str, stops: tuple[str, ...], cuts: list[int]
) -> None:
    first, second = TextStream(stops), TextStream(stops)
    parts = pieces(text.encode(), cuts)
    half = len(parts) // 2
    for part in parts[:half]:
        first.push(part)
        second.push(part)
    assert [first.push(part) for part in parts[half:]] == [
        second.push(part) for part in parts[half:]
    ]
    assert first.close() == second.close()


def test_a_character_comes_out_with_its_last_byte() -> None:
    stream = TextStream()
    assert [stream.push(bytes([byte])) for byte in "\U0001f600".encode()] == [
        "",
        "",
        "",
        "\U0001f600",
    ]


def test_half_a_character_at_the_end_becomes_one_replacement_character() -> None:
    stream = TextStream()
    assert stream.push(b"a\xf0\x9f") == "a"
    assert stream.close() == "\N{REPLACEMENT CHARACTER}"


def test_a_stop_string_across_three_tokens_is_never_seen() -> None:
    stream = TextStream(("\n\nUser:",))
    assert [stream.push(part) for part in (b"Hi", b"\n", b"\nUs", b"er: x")] == ["Hi", "", "", ""]
    assert stream.stopped_by == "\n\nUser:"
    assert stream.push(b"more") == ""
    assert stream.close() == ""


def test_a_stop_string_that_does_not_come_is_given_back() -> None:
    stream = TextStream(("abc",))
    assert stream.push(b"xab") == "x"
    assert stream.push(b"d") == "abd"
    assert stream.push(b"ab") == ""
    assert stream.close() == "ab"
    assert stream.stopped_by is None


@pytest.mark.parametrize("whole", [True, False], ids=["one token", "many tokens"])
def test_the_first_stop_string_to_be_complete_wins(whole: bool) -> None:
    stream = TextStream(("abcd", "bc"))
    parts = [b"abcd"] if whole else [b"a", b"b", b"c", b"d"]
    assert "".join(stream.push(part) for part in parts) + stream.close() == "a"
    assert stream.stopped_by == "bc"
