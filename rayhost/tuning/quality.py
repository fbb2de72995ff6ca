"""How much a candidate's predictions differ from its source's, and how much may be. Pure on arrays.

Kullback-Leibler divergence sees every change of the distribution, top-1 agreement what greedy
decoding would notice, perplexity whether the text became less likely.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayhost.tuning.tasks import Judged

Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a candidate may cost: divergence and perplexity at most, agreement at least.

    `perplexity` is a ratio to the source's. For scale, a file of 135 M parameters in Q4_1, made
    again in Q8_0, diverges by 0.012 and agrees at 94 %; in Q4_K_M by 0.16 and 82 %; in Q4_0 by 0.63
    and 64 %, a third more perplexed: another model.
    """

    divergence: float = 0.10
    agreement: float = 0.80
    perplexity: float = 1.10

    def broken(self, judged: Judged) -> tuple[str, ...]:
        """Return a line for each limit that is broken."""
        ratio = judged.perplexity / judged.reference_perplexity
        checks = (
            (judged.divergence > self.divergence, "KL divergence", judged.divergence, "above"),
            (judged.agreement < self.agreement, "top-1 agreement", judged.agreement, "below"),
            (ratio > self.perplexity, "perplexity ratio", ratio, "above"),
        )
        limits = (self.divergence, self.agreement, self.perplexity)
        return tuple(
            f"{name} {value:.3f} is {side} {limit:g}"
            for (bad, name, value, side), limit in zip(checks, limits, strict=True)
            # A model that computes no numbers compares as neither above nor below.
            if bad or not np.isfinite(value)
        )


class Tally:
    """Sums over the positions of a text."""

    def __init__(self) -> None:
        self._divergence = 0.0
        self._agreed = 0
        self._positions = 0
        self._surprise = [0.0, 0.0]  # reference, candidate

    def add(self, reference: Rows, candidate: Rows, following: NDArray[np.int64]) -> None:
        """Count (positions, vocabulary) logits of both, and the tokens that really follow."""
        known, tried = log_softmax(reference), log_softmax(candidate)
        self._divergence += float((np.exp(known) * (known - tried)).sum())
        self._agreed += int((known.argmax(axis=1) == tried.argmax(axis=1)).sum())
        rows = np.arange(len(following))
        self._surprise[0] -= float(known[rows, following].sum())
        self._surprise[1] -= float(tried[rows, following].sum())
        self._positions += len(following)

    def judged(self) -> Judged:
        """Return the means. Raises ValueError if nothing was counted."""
        if not self._positions:
            raise ValueError("the text is too short to judge by")
        count = self._positions
        reference, candidate = (float(np.exp(total / count)) for total in self._surprise)
        return Judged(
            divergence=self._divergence / count,
            agreement=self._agreed / count,
            perplexity=candidate,
            reference_perplexity=reference,
            positions=count,
        )


def log_softmax(logits: Rows) -> NDArray[np.float64]:
    """Return log-probabilities, row by row; float64, as a vocabulary's sum loses digits."""
    shifted: NDArray[np.float64] = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted
