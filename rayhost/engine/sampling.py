"""Choosing the next token of every due sequence from the step's logits. Pure but for the logits.

Order: penalties, temperature, top-k, top-p, min-p, draw. (llama.cpp applies temperature last; the
order here is that of vLLM and Hugging Face transformers, which OpenAI's parameters describe.)
Randomness is a counter: the draw depends on (seed, position) alone, so a resumed run goes on
exactly as it would have, and no generator state exists anywhere.
A row with nothing to choose from (NaN, infinite) condemns the engine: never a wrong answer.
Measured at a vocabulary of 49,152: greedy 10 µs, plain temperature 120 µs, top-p 150 µs a sequence.
"""

import math
import struct
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import xxhash

from rayhost.engine.base import EngineFailed, Int32, Logits
from rayhost.ipc.messages import Sampling

_KEY = struct.Struct("<QQ")
# Temperatures that 32 bits can hold; beyond them the distribution no longer changes.
_COLDEST, _HOTTEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
_RELATIVE_CUTS = (1e-3, 1e-6, 0.0)


class Due(Protocol):
    """What sampling needs to know of a sequence whose next token is due."""

    sampling: Sampling
    tokens: list[int]
    n_prompt: int


def uniform(seed: int, position: int) -> float:
    """Return the draw of a run at a position, in [0, 1): 53 bits of xxh3_64(seed, position)."""
    bits = xxhash.xxh3_64_intdigest(_KEY.pack(seed & 0xFFFF_FFFF_FFFF_FFFF, position))
    return (bits >> 11) * 2.0**-53


class Sampler:
    """Samples whole steps. Holds scratch space, so one per engine.

    Without it every sequence would page-fault a fresh 200 kB array each step.
    """

    def __init__(self, vocabulary: int) -> None:
        self._weights: Logits = np.empty(vocabulary, np.float32)
        self._cumulative = np.empty(vocabulary, np.float64)

    def sample(self, logits: Logits, due: Sequence[Due]) -> list[int]:
        """Return one token for each row of `logits`, shape (len(due), vocabulary).

        Penalised rows are changed in place. Raises EngineFailed when a row's best is not finite.
        """
        return [self._choose(row, run) for row, run in zip(logits, due, strict=True)]

    def _choose(self, row: Logits, run: Due) -> int:
        options = run.sampling
        if options.temperature == 0.0 and not _penalised(options):
            return _best(row)
        with np.errstate(over="ignore"):  # a hopeless token may go on to -inf, which weighs 0
            penalise(row, run)
            best = _best(row)
            return best if options.temperature == 0.0 else self._draw(row, best, run)

    def _draw(self, row: Logits, best: int, run: Due) -> int:
        """Return a token at random, the way its sampling options say; `best` is the likeliest."""
        options = run.sampling
        weights = np.subtract(row, row[best], out=self._weights)
        weights /= min(max(options.temperature, _COLDEST), _HOTTEST)
        np.exp(weights, out=weights)  # the most likely token weighs 1
        draw = uniform(options.seed, len(run.tokens))
        top_k = options.top_k if options.top_k < len(row) else 0  # all of them: nothing to sort for
        if top_k == 0 and options.top_p == 1.0 and options.min_p == 0.0:
            cumulative = np.cumsum(weights, dtype=np.float64, out=self._cumulative)
            return _pick(cumulative, draw)
        kept = shortlist(weights, top_k, options.top_p, options.min_p)
        return int(kept[_pick(np.cumsum(weights[kept], dtype=np.float64), draw)])


def _best(row: Logits) -> int:
    best = int(row.argmax())  # of a row with a NaN in it: the first NaN
    if not math.isfinite(row[best]):
        raise EngineFailed(f"the model computed a logit of {row[best]} for its best token")
    return best


def _penalised(options: Sampling) -> bool:
    return (
        options.repeat_penalty != 1.0
        or options.presence_penalty != 0.0
        or options.frequency_penalty != 0.0
    )


def penalise(row: Logits, run: Due) -> None:
    """Apply the penalties to a row in place.

    Presence and frequency count generated tokens, as OpenAI documents; the repeat penalty counts
    prompt and generated tokens, as in Keskar et al. 2019 (CTRL), section 4.1.
    """
    options = run.sampling
    if options.repeat_penalty != 1.0 and run.tokens:
        seen = np.unique(np.asarray(run.tokens, np.int64))
        values = row[seen]
        row[seen] = np.where(
            values > 0, values / options.repeat_penalty, values * options.repeat_penalty
        )
    generated = run.tokens[run.n_prompt :]
    if generated and (options.presence_penalty or options.frequency_penalty):
        ids, counts = np.unique(np.asarray(generated, np.int64), return_counts=True)
        row[ids] -= options.presence_penalty + options.frequency_penalty * counts


def shortlist(weights: Logits, top_k: int, top_p: float, min_p: float) -> Int32:
    """Return the ids that survive top-k, top-p and min-p, heaviest first, never none.

    `weights` are unnormalised probabilities, the heaviest being 1. Sorting a whole vocabulary
    takes milliseconds, so only ids above a cut are sorted, and the cut is lowered until what lies
    below it provably cannot matter.
    """
    total = float(weights.sum(dtype=np.float64))
    for cut in _RELATIVE_CUTS:
        ids = np.flatnonzero(weights >= cut)
        if top_k:
            enough = top_k <= len(ids)
        else:
            mass = float(weights[ids].sum(dtype=np.float64))
            enough = cut <= min_p or (top_p < 1.0 and mass >= top_p * total)
        if enough:
            break
    ids = ids[np.argsort(-weights[ids], kind="stable")]  # equal weights keep id order
    if top_k:
        ids = ids[:top_k]
        total = float(weights[ids].sum(dtype=np.float64))
    if top_p < 1.0:
        cumulative = np.cumsum(weights[ids], dtype=np.float64)
        ids = ids[: int(np.searchsorted(cumulative, top_p * total)) + 1]
    return ids[weights[ids] >= min_p].astype(np.int32)


def _pick(cumulative: np.ndarray[tuple[int], np.dtype[np.float64]], draw: float) -> int:
    """Return the first index whose cumulative weight exceeds the drawn share of the total."""
    index = int(np.searchsorted(cumulative, draw * cumulative[-1], side="right"))
    return min(index, len(cumulative) - 1)
