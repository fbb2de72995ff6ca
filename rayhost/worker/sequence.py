"""A request inside the worker: its tokens and how many of them the KV cache holds.

Everything else is derived. `tokens` is the prompt and what was generated; `computed` of them are
in the KV cache of `slot`; when all but none are missing, the next token is due. A sequence with a
`leader` waits: as soon as that one holds their common beginning, it is copied.
"""

from dataclasses import dataclass
from typing import Self

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
    reused: int = 0  # of the prompt, not computed for this request
    leader: Self | None = None
    fork_at: int = 0  # tokens in common with the leader
    checkpoint: int = 0  # where a copy of the cells is to be kept for others; 0: nowhere
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
