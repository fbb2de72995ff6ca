"""The layout of a sequence's state as llama.cpp writes it, as far as a resize has to know it. Pure.

    uint32 magic | uint32 sequence | uint32 streams | for each stream: uint32 cells | their content

Source: `llama_context::state_seq_get_data` and `llama_kv_cache::state_write` in llama.cpp's src; of
caches that are no plain KV cache (sliding window, recurrent) several such parts follow each other,
and none of this holds. A reader wants the number of streams of its own context, and ignores in
which of them the cells were: so a state gets another number by adding or taking away empty streams.
"""

import numpy as np

from rayhost.engine.base import State

_WORD = 4
_STREAMS = 2 * _WORD  # where their number stands
_COUNTS = 3 * _WORD  # and where the first one's cells are counted


def with_streams(state: State, streams: int) -> State:
    """Return the state of one sequence for a context of `streams` streams.

    Raises ValueError for bytes that are none.
    """
    had = int(state[_STREAMS:_COUNTS].view(np.uint32)[0]) if len(state) >= _COUNTS else 0
    if had == streams:
        return state
    if not 0 < had <= (len(state) - _COUNTS) // _WORD:
        raise ValueError(f"{len(state)} bytes are no state of {had} streams")
    counts = state[_COUNTS : _COUNTS + _WORD * had].view(np.uint32)
    before = int(np.argmax(counts != 0))  # empty streams in front of the one that has cells
    content = state[_COUNTS + _WORD * before : len(state) - _WORD * (had - before - 1)]
    made = np.zeros(_COUNTS + len(content) + _WORD * (streams - 1), np.uint8)
    made[:_STREAMS] = state[:_STREAMS]
    made[_STREAMS:_COUNTS].view(np.uint32)[0] = streams
    made[_COUNTS : _COUNTS + len(content)] = content
    return made
