"""How grammars guide the sequences of one step: what may come next, and what must. No engine here.

What a grammar ends is told as an outcome, never raised: a run that cannot go on is its own trouble.
"""

from collections.abc import Sequence as List

from rayhost.engine.base import Logits
from rayhost.engine.grammar import GrammarError
from rayhost.ipc.messages import Rejected
from rayhost.worker.constraints import rejected
from rayhost.worker.sequence import Sequence

Ended = dict[Sequence, Rejected | None]  # None: complete


def restrict(rows: Logits, due: List[Sequence]) -> Ended:
    """Mask the rows of sequences that follow a grammar; return those that end without a token."""
    ended: Ended = {}
    for row, sequence in zip(rows, due, strict=True):
        if sequence.matcher is None:
            continue
        try:
            if not sequence.matcher.restrict(row, ends=not sequence.sampling.ignore_eos):
                ended[sequence] = None
        except GrammarError as error:
            ended[sequence] = rejected(error)
    return ended


def follow(sequence: Sequence, token: int, ends: bool) -> list[int] | Rejected:
    """Return a sampled token and those that can only follow it; `ends`: it ends the generation.

    Log-probabilities are those of sampled tokens, so where they are asked for each is sampled.
    """
    matcher = sequence.matcher
    if matcher is None or ends:
        return [token]
    try:
        matcher.accept([token])
        return [token] if sequence.logprobs >= 0 else [token, *matcher.forced()]
    except GrammarError as error:
        return rejected(error)
