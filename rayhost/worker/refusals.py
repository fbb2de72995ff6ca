"""Why a run cannot start in this worker. Pure; used by the step loop.

The front has checked all this; a worker trusts nobody.
"""

from rayhost.engine.base import Facts
from rayhost.ipc.messages import Rejected, Start


def refusal(tokens: list[int], start: Start, facts: Facts) -> Rejected | None:
    """Return what a run is answered that cannot start, None for one that can."""
    if not tokens or start.n_prompt < 1 or start.n_prompt > len(tokens):
        return Rejected("the prompt is empty", "invalid_value", "prompt")
    biased = [token for token, _ in start.sampling.logit_bias]
    for param, ids in (("prompt", tokens), ("logit_bias", biased)):
        if ids and (min(ids) < 0 or max(ids) >= facts.vocabulary):
            return Rejected(
                f"token ids must be from 0 to {facts.vocabulary - 1}", "invalid_value", param
            )
    if start.outgrown:
        return None
    if start.max_tokens < 1:
        return Rejected("max_tokens must be at least 1", "invalid_value", "max_tokens")
    # What has an answer is over where it is full, and not refused.
    if len(tokens) == start.n_prompt >= facts.context:
        return too_long(len(tokens), facts.context)
    return None


def too_long(tokens: int, context: int) -> Rejected:
    """Return what a run is answered whose prompt leaves no room for an answer."""
    return Rejected(f"{tokens} tokens do not fit a context of {context}", "context_length_exceeded")
