"""What is added to or taken from logits before anything is chosen: bias, penalties, forbidden ends.

They change a row in place. Used by `sampling` alone.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np

from rayhost.engine.base import Int32, Logits
from rayhost.ipc.sampling import Sampling


class Penalised(Protocol):
    """What penalties need to know of a sequence."""

    sampling: Sampling
    tokens: list[int]
    n_prompt: int


def penalised(options: Sampling) -> bool:
    """Tell whether `penalise` would change anything."""
    return (
        options.repeat_penalty != 1.0
        or options.presence_penalty != 0.0
        or options.frequency_penalty != 0.0
    )


def bias(row: Logits, pairs: tuple[tuple[int, float], ...]) -> None:
    """Add to the logits of some tokens. Each is one of the vocabulary."""
    ids, values = _columns(pairs)
    row[ids] += values


@lru_cache(maxsize=64)
def _columns(pairs: tuple[tuple[int, float], ...]) -> tuple[Int32, Logits]:
    ids, values = zip(*pairs, strict=True)
    return np.array(ids, np.int32), np.array(values, np.float32)


def forbid(row: Logits, tokens: Int32) -> None:
    """Make some tokens impossible."""
    row[tokens] = -np.inf


def penalise(row: Logits, run: Penalised) -> None:
    """Apply the penalties for tokens that were there before, as far back as `repeat_last_n`.

    Presence and frequency count generated tokens, as OpenAI documents; the repeat penalty counts
    prompt and generated tokens, as in Keskar et al. 2019 (CTRL), section 4.1. (llama.cpp counts the
    prompt for all three.)
    """
    options, tokens = run.sampling, run.tokens
    first = window(tokens, options.repeat_last_n)
    if options.repeat_penalty != 1.0 and first < len(tokens):
        seen = np.unique(np.asarray(tokens[first:], np.int64))
        values = row[seen]
        row[seen] = np.where(
            values > 0, values / options.repeat_penalty, values * options.repeat_penalty
        )
    generated = tokens[max(first, run.n_prompt) :]
    if generated and (options.presence_penalty or options.frequency_penalty):
        ids, counts = np.unique(np.asarray(generated, np.int64), return_counts=True)
        row[ids] -= options.presence_penalty + options.frequency_penalty * counts


def window(tokens: Sequence[int], last_n: int) -> int:
    """Return where the last `last_n` tokens begin; -1 stands for all of them."""
    return 0 if last_n < 0 else max(0, len(tokens) - last_n)
