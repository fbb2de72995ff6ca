"""Mirostat: a truncation that steers the surprise of what is drawn towards a target.

Basu et al. 2021, https://arxiv.org/abs/2007.14966; version 2 is its simplification, both as in
llama.cpp. The state is `mu`, in bits: it is told with each token, so that a run can be carried on.
Used by `sampling` alone.
"""

import math

import numpy as np

from rayhost.engine.base import Logits
from rayhost.engine.truncation import shortlist
from rayhost.ipc.sampling import Mirostat

_FIT = 100  # of the likeliest tokens, how fast they get rarer is fitted to these


def truncate(weights: Logits, options: Mirostat, mu: float) -> None:
    """Let the tokens weigh 0 that are too surprising. In place; the heaviest always stays."""
    if options.version == 1:
        rank = _rank(weights, mu)
        if rank == len(weights):
            return
        ids = shortlist(weights, rank, 1.0, 0.0)
        kept = weights[ids]
        weights.fill(0.0)
        weights[ids] = kept
    else:
        total = float(weights.sum(dtype=np.float64))
        # Beyond 1,000 bits the power would overflow.
        least = 2.0 ** -min(max(mu, -1000.0), 1000.0) * total
        if least > 1.0:  # which is what the heaviest weighs
            best = int(weights.argmax())
            weights.fill(0.0)
            weights[best] = 1.0
        else:
            weights[weights < least] = 0.0


def after(mu: float, options: Mirostat, probability: float) -> float:
    """Return the state after a token was drawn that had this probability among the ones left."""
    return mu - options.eta * (-math.log2(probability) - options.tau)


def _rank(weights: Logits, mu: float) -> int:
    """Return how many tokens to leave (the paper's k, from its equations 30 and 33)."""
    size = len(weights)
    ids = shortlist(weights, min(_FIT, size), 1.0, 0.0)
    logs = np.log(weights[ids][weights[ids] > 0.0].astype(np.float64))
    if len(logs) < 2:
        return 1
    ranks = np.log(np.arange(1, len(logs) + 1))
    steps = np.diff(ranks)
    slope = float(steps @ -np.diff(logs) / (steps @ steps))
    if slope <= 0.0:
        return size  # all are as likely
    excess = slope - 1.0
    # Its limit where the slope is 1: 1 / ln(size).
    norm = excess / -math.expm1(-excess * math.log(size)) if excess else 1.0 / math.log(size)
    bits = (math.log2(norm) + mu) / slope
    return min(size, max(1, int(2.0 ** min(bits, 60.0))))
