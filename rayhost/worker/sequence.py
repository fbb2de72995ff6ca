"""A request inside the worker: its tokens and how many of them the KV cache holds.

Everything else is derived. `tokens` is the prompt and what was generated; `computed` of them are
in the KV cache of `slot`; when all but none are missing, the next token is due.
"""

from dataclasses import dataclass

from rayhost.ipc.messages import Sampling
from rayhost.worker.output import TextStream


@dataclass(slots=True, eq=False)
class Sequence:
    """One generation. Times are CLOCK_MONOTONIC nanoseconds, 0 for not yet."""

    request_id: int
    tokens: list[int]
    n_prompt: int
    max_tokens: int
    sampling: Sampling
    text: TextStream
    slot: int = -1
    computed: int = 0
    started_ns: int = 0
    first_token_ns: int = 0

    @property
    def missing(self) -> int:
        """Tokens that the KV cache does not hold yet."""
        return len(self.tokens) - self.computed

    @property
    def decoding(self) -> bool:
        """True when one more token is all that a step adds."""
        return self.missing == 1 and self.first_token_ns != 0

    @property
    def n_generated(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.n_prompt
