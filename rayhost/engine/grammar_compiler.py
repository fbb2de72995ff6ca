"""Constraints compiled by llguidance. Imported where the first one comes (23 ms).

Invariant: whatever a client sends as schema or grammar, `compile` returns or raises within seconds
and takes the process down in no case: a child tries it first (`engine.grammar_check`).
Measured: the tokenizer 0.3 s and 19 MB once for 49,152 tokens; a schema of a few kB 1 ms, and as
much again in the child, which takes 70 to start.
"""

from collections.abc import Callable
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from rayhost.engine import grammar_check
from rayhost.engine.grammar import Grammar, GrammarError, TooSlow, Words, told
from rayhost.engine.grammar_checker import Checker
from rayhost.ipc.messages import Constraint

MAX_SOURCE = 128 * 1024  # bytes of UTF-8; a compiled one takes up to 100 times as much memory

INVALID = {
    "json_schema": "invalid_json_schema",
    "json_object": "invalid_json_schema",
    "gbnf": "invalid_grammar",
    "lark": "invalid_grammar",
    "calls": "invalid_function_parameters",
    "regex": "invalid_regex",
}
_NAMES = {"json_schema": "JSON schema", "json_object": "JSON schema", "regex": "regular expression"}


def tokenizer_of(words: Words) -> LLTokenizer:
    """Return a vocabulary of llama.cpp as llguidance's, which tokenizes by it too."""
    make: Any = LLTokenizer  # its stub does not know of llama.cpp
    tokenizer: LLTokenizer = make.from_llamacpp(
        tokens=words.texts,
        vocab_ptr=words.vocab,
        tokenize_fptr=words.tokenize,
        eos_token=words.ends,
    )
    return tokenizer


class Grammars:
    """Compiles constraints for one vocabulary. The tokenizer is made when it is first needed."""

    def __init__(self, make_tokenizer: Callable[[], LLTokenizer]) -> None:
        self._make_tokenizer = make_tokenizer
        self._tokenizer: LLTokenizer | None = None
        self._checker = Checker()

    def compile(self, constraint: Constraint, cpu_s: float) -> Grammar:
        """Return a compiled constraint. Raises GrammarError.

        TooSlow is the one for what would take more than so many seconds of a CPU.
        For a thread with a stack of `grammar.STACK`; only one may do this at a time.
        """
        name = _NAMES.get(constraint.kind, "grammar")
        size = len(constraint.source.encode(errors="replace"))
        if size > MAX_SOURCE:
            raise GrammarError(
                f"the {name} has {size} bytes, and at most {MAX_SOURCE} are allowed",
                INVALID[constraint.kind],
            )
        try:
            grammar = self._checker.check(constraint, cpu_s)
            self._tokenizer = self._tokenizer or self._make_tokenizer()
            prototype = LLMatcher(
                self._tokenizer, grammar, log_level=0, limits=grammar_check.LIMITS
            )
            prototype.compute_bitmask()  # some errors show only in the first
            if prototype.is_error():
                raise grammar_check.Invalid(prototype.get_error())
        except grammar_check.Invalid as reason:
            unfinished = isinstance(reason, grammar_check.Unfinished)
            raise (TooSlow if unfinished else GrammarError)(
                f"the {name} cannot be used: {told(str(reason))}", INVALID[constraint.kind]
            ) from reason
        return Grammar(self._tokenizer, prototype)
