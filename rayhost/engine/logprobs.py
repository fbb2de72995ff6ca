"""Log-probabilities of tokens: of the model's own distribution, before anything shaped the choice.

That is the softmax of the raw logits, without temperature, penalties, bias, truncation or mask, as
OpenAI and vLLM tell it. Pure.
"""

from collections.abc import Callable

import numpy as np

from rayhost.engine.base import Logits
from rayhost.ipc.messages import Likely, TokenLogprob

IMPOSSIBLE = -9999.0  # what JSON can say of a logarithm of zero; OpenAI's and vLLM's value


def logprob_of(
    row: Logits,
    token: int,
    top: int,
    piece: Callable[[int], bytes],
    name: Callable[[int], bytes],
) -> TokenLogprob:
    """Return a token's log-probability, and the `top` likeliest with theirs, the likeliest first.

    `row` has the raw logits. The token that came is told with its bytes in the text (`piece`), the
    others with their names. Of equally likely ones those with lower ids.
    """
    best = float(row.max())
    weights = np.exp(row - np.float32(best))
    norm = best + float(np.log(weights.sum(dtype=np.float64)))
    ids = heaviest(row, top)
    return TokenLogprob(
        token,
        piece(token),
        _finite(float(row[token]) - norm),
        tuple([Likely(one, name(one), _finite(float(row[one]) - norm)) for one in ids]),
    )


def heaviest(row: Logits, count: int) -> list[int]:
    """Return the ids of the largest, the largest first, equal ones by id."""
    count = min(count, len(row))
    if count == 0:
        return []
    least = np.partition(row, len(row) - count)[len(row) - count]
    ids = np.flatnonzero(row >= least)
    order = np.argsort(-row[ids], kind="stable")[:count]
    chosen: list[int] = ids[order].tolist()
    return chosen


def _finite(logprob: float) -> float:
    return max(logprob, IMPOSSIBLE)
