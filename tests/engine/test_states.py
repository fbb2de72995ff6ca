"""States of a sequence between contexts of different numbers of streams."""

import numpy as np
import pytest

from rayhost.engine.base import State
from rayhost.engine.states import with_streams


def state(streams: int, stream: int, content: bytes) -> State:
    """As llama.cpp writes it: only one stream has cells, two of them."""
    counts = [0] * streams
    head = np.array([0xAF, 5, streams, *counts[:stream], 2], np.uint32).tobytes()
    tail = np.array(counts[stream + 1 :], np.uint32).tobytes()
    return np.frombuffer(head + content + tail, np.uint8)


@pytest.mark.parametrize(("had", "stream"), [(1, 0), (4, 0), (4, 2), (4, 3)])
@pytest.mark.parametrize("wants", [1, 2, 4, 8])
def test_a_state_is_what_a_context_of_that_many_streams_would_have_written(
    had: int, stream: int, wants: int
) -> None:
    made = with_streams(state(had, stream, b"keys and values."), wants)
    # The cells of a reader's stream are where the number of the sequence says, not where they were.
    assert made.tobytes() in {
        state(wants, at, b"keys and values.").tobytes() for at in range(wants)
    }


def test_a_state_of_the_right_number_is_not_copied() -> None:
    own = state(4, 1, b"keys and values.")
    assert with_streams(own, 4) is own


@pytest.mark.parametrize("size", [0, 7, 12, 15, 20])
def test_bytes_that_are_no_state_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="no state"):
        with_streams(state(9, 0, b"")[:size], 2)
