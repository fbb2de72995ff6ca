"""Structured output: which tokens may follow what a run has generated, by llguidance.

Invariant: a `Matcher` never lets a token pass that its grammar does not allow; where it comes to a
limit it raises instead. Imports llguidance only for its types: 6 MB, which most workers never need.
Measured at a vocabulary of 49,152: a mask 20 µs, applying it 10 to 25 µs, a new matcher 10 µs.
"""

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rayhost.engine.base import Int32, Logits

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

STACK = 128 << 20  # bytes, of a thread that compiles: four times what the child has
MAX_FORCED = 16  # tokens that are added at once without being sampled
_MAX_MESSAGE = 400  # characters of what llguidance says

# CPU time that a run's grammar may take of the step thread, where others wait for it.
_FREE_NS = 500_000_000
_NS_PER_TOKEN = 5_000_000


class Words(NamedTuple):
    """A vocabulary of llama.cpp."""

    texts: list[bytes]  # by token id; that of one that is never text begins with 0xff
    ends: list[int]  # tokens that end a generation
    vocab: Any  # pointer to llama.cpp's own
    tokenize: int  # address of llama_tokenize


class GrammarError(Exception):
    """A constraint that cannot be followed: OpenAI's error code."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class TooSlow(GrammarError):
    """A constraint that was not compiled in the time it was given."""


class Grammar:
    """A compiled constraint. Safe to use from several threads."""

    def __init__(self, tokenizer: "LLTokenizer", prototype: "LLMatcher") -> None:
        self._tokenizer = tokenizer
        self._prototype = prototype

    def matcher(self) -> "Matcher":
        """Return a matcher at the beginning of a text."""
        return Matcher(self._prototype.deep_copy(), self._tokenizer)


class Matcher:
    """Where one generation is in its grammar. Used by one thread; every method may raise."""

    def __init__(self, native: "LLMatcher", tokenizer: "LLTokenizer") -> None:
        self._native = native
        self._mask: Int32 = np.zeros((tokenizer.vocab_size + 31) // 32, np.int32)
        self._ends = np.asarray(tokenizer.eos_tokens, np.int64)
        self._accepted = 0
        self._spent_ns = 0

    @property
    def finished(self) -> bool:
        """True when the text matches and nothing can follow it."""
        return bool(self._native.is_stopped())

    def restrict(self, row: Logits, *, ends: bool = True) -> bool:
        """Set the logits of all tokens to -inf that cannot come next; return whether any is left.

        With `ends` false those that end a generation cannot come either. Otherwise they are left
        exactly when the text so far matches. Raises GrammarError.
        """
        began = time.thread_time_ns()
        self._native.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        self._account(began)
        allowed = np.unpackbits(self._mask.view(np.uint8), count=len(row), bitorder="little")
        if not ends:
            allowed[self._ends] = 0
        np.copyto(row, -np.inf, where=allowed == 0)
        return ends or bool(allowed.any())

    def accept(self, tokens: list[int]) -> None:
        """Take tokens that came next. Raises GrammarError for those that could not."""
        began = time.thread_time_ns()
        self._native.consume_tokens(tokens)
        self._accepted += len(tokens)
        self._account(began)

    def forced(self) -> list[int]:
        """Accept and return the tokens, at most `MAX_FORCED`, that alone can come next."""
        began = time.thread_time_ns()
        tokens = self._native.compute_ff_tokens()[:MAX_FORCED]
        self._account(began)
        if tokens:
            self.accept(tokens)
        return tokens

    def _account(self, began: int) -> None:
        """Raise GrammarError for a failure, and for a grammar that stalls the other runs."""
        if self._native.is_error():
            raise self._stuck(told(self._native.get_error()))
        self._spent_ns += time.thread_time_ns() - began
        if self._spent_ns > _FREE_NS + _NS_PER_TOKEN * self._accepted:
            raise self._stuck("following the grammar takes too much time, it is too ambiguous")

    def _stuck(self, reason: str) -> GrammarError:
        return GrammarError(f"the answer cannot be continued: {reason}", "grammar_too_complex")


def told(error: str) -> str:
    """Return the part of llguidance's message that is about the client's text."""
    first, *others = error.strip().split("\n")
    if first == "NoExtensionBias":
        return "no text can match it"
    if len(first) > _MAX_MESSAGE:
        first = f"{first[:_MAX_MESSAGE]}..."
    # Behind it the source is shown with marks under it, then perhaps what is wrong there.
    why = (line[:_MAX_MESSAGE] for line in others if line.startswith("error: "))
    return " ".join([first, *why])
