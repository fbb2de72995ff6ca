"""Which tokens may be drawn at all: top-k, typical, top-p, min-p, and XTC, in that order.

Pure functions over weights, which are unnormalised probabilities, the heaviest being 1. Sorting a
whole vocabulary takes milliseconds, so only what a cut leaves is sorted, and the cut is moved until
what lies beyond it provably cannot matter. Used by `sampling` and `mirostat`.
"""

from typing import Any

import numpy as np

from rayhost.engine.base import Int32, Logits

Ids = np.ndarray[Any, np.dtype[np.int64]]
_RELATIVE_CUTS = (1e-3, 1e-6, 0.0)
_SURPRISE_CUTS = (0.5, 1.0, 2.0, 4.0, np.inf)  # distances from the expected surprise, in nats


def shortlist(
    weights: Logits, top_k: int, top_p: float, min_p: float, typical_p: float = 1.0
) -> Int32:
    """Return the ids that survive, heaviest first, never none. A `top_k` of 0 is off."""
    if typical_p < 1.0:
        ids = _heaviest(weights, top_k) if top_k else np.arange(len(weights))
        ids = _by_weight(weights, typical(weights, ids, typical_p))
        total = float(weights[ids].sum(dtype=np.float64))
    elif top_k:
        ids = _heaviest(weights, top_k)
        total = float(weights[ids].sum(dtype=np.float64))
    else:
        total = float(weights.sum(dtype=np.float64))
        for cut in _RELATIVE_CUTS:
            ids = np.flatnonzero(weights >= cut)
            mass = float(weights[ids].sum(dtype=np.float64))
            if cut <= min_p or (top_p < 1.0 and mass >= top_p * total):
                break
        ids = _by_weight(weights, ids)
    if top_p < 1.0:
        cumulative = np.cumsum(weights[ids], dtype=np.float64)
        ids = ids[: int(np.searchsorted(cumulative, top_p * total)) + 1]
    kept: Int32 = ids[weights[ids] >= min_p * weights[ids[0]]].astype(np.int32)
    return kept


def _heaviest(weights: Logits, count: int) -> Ids:
    """Return the ids of the `count` heaviest, the heaviest first."""
    for cut in _RELATIVE_CUTS:
        ids = np.flatnonzero(weights >= cut)
        if count <= len(ids):
            break
    return _by_weight(weights, ids)[:count]


def _by_weight(weights: Logits, ids: Ids) -> Ids:
    return ids[np.argsort(-weights[ids], kind="stable")]  # equal weights keep id order


def typical(weights: Logits, ids: Ids, share: float) -> Ids:
    """Return those of the ids whose surprise is nearest to what is expected, `share` in all.

    The nearest comes first. Meister et al. 2022, "Locally typical sampling".
    """
    ids = ids[weights[ids] > 0.0]
    chances = weights[ids]
    total = chances.sum(dtype=np.float64)
    surprises = np.float32(np.log(total)) - np.log(chances)  # a tiny chance has one, too
    chances /= total
    distances = np.abs(surprises - (chances * surprises).sum(dtype=np.float64))
    for cut in _SURPRISE_CUTS:
        near = np.flatnonzero(distances <= cut)
        if float(chances[near].sum(dtype=np.float64)) >= share:
            break
    near = near[np.argsort(distances[near], kind="stable")]
    cumulative = np.cumsum(chances[near], dtype=np.float64)
    return ids[near[: int(np.searchsorted(cumulative, share)) + 1]]


def exclude_top(weights: Logits, threshold: float) -> None:
    """Let all that are at least as probable as `threshold` weigh 0, but for the lightest of them.

    Of equal ones the last stays. In place.
    """
    over = np.flatnonzero(weights >= threshold * float(weights.sum(dtype=np.float64)))
    if len(over) > 1:
        stays = len(over) - 1 - int(weights[over][::-1].argmin())
        weights[np.delete(over, stays)] = 0.0
