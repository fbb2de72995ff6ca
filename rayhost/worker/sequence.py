"""A request inside the worker: its tokens and how many of them the KV cache holds.

Everything else is derived. `tokens` is the prompt and what was generated; `computed` of them are
in the KV cache of `slot`; when all but none are missing, the next token is due. A sequence with a
`leader` waits: as soon as that one holds their common beginning, it is copied.
"""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Self

from rayhost.engine.grammar import Matcher
from rayhost.ipc.sampling import Sampling
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
    begun: bool = False  # a step computed some of it, here or in another worker
    reused: int = 0  # of the prompt, not computed for it when it was begun
    leader: Self | None = None
    fork_at: int = 0  # tokens in common with the leader
    checkpoint: int = 0  # where a copy of the cells is to be kept for others; 0: nowhere
    started_ns: int = 0
    first_token_ns: int = 0
    priority: int = 1  # a lower one's prompt is computed first
    mu: float | None = None  # mirostat's state; None at its beginning
    logprobs: int = -1  # the likeliest tokens told with each one; -1: no log-probabilities
    begins: list[int] = field(default_factory=list)  # where each token's text does, if told
    matcher: Matcher | None = None  # where it is in the grammar that it follows
    added: int = 0  # tokens that the grammar added to the one that was sampled last

    def evicted(self) -> None:
        """Note that its cells are gone."""
        self.slot = -1
        self.computed = self.fork_at = self.checkpoint = self.added = 0
        self.leader = None

    @property
    def missing(self) -> int:
        """Tokens that the KV cache does not hold yet."""
        return len(self.tokens) - self.computed

    @property
    def preload(self) -> bool:
        """True for what nobody asked for: its cells are wanted, and no token after them."""
        return self.max_tokens == 0

    def due(self, size: int) -> bool:
        """Tell whether its next token is wanted once `size` more are computed."""
        return size == self.missing and not self.preload

    @property
    def decoding(self) -> bool:
        """True when one more token is all that a step adds."""
        return self.missing == 1 and self.first_token_ns != 0

    @property
    def forced(self) -> bool:
        """True when a step adds tokens that its grammar added to the one that was sampled."""
        return 1 < self.missing <= 1 + self.added

    @property
    def settled(self) -> int:
        """Generated tokens whose text, as far as they have any, has begun and is final."""
        if self.text.closed and not self.text.stopped:
            return len(self.begins)
        return bisect_left(self.begins, self.text.emitted)

    @property
    def n_generated(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.n_prompt
