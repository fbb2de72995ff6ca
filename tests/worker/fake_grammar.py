"""Grammars over the fake engine's vocabulary, compiled at once or when a test lets it."""

import itertools
import threading

from llguidance import LLMatcher, LLTokenizer
from llguidance._tokenizer import TokenizerWrapper

from rayhost.engine import grammar_check
from rayhost.engine.grammar import Grammar, GrammarError, TooSlow
from rayhost.engine.grammar_check import LIMITS
from rayhost.ipc.messages import Constraint
from rayhost.worker.constraints import Constraints
from tests.worker.fake_engine import END, PIECES


class _Vocabulary:
    eos_token_id = END
    bos_token_id = None
    tokens = (b"\xff<end>", *PIECES[1:])
    special_token_ids = (END,)

    def __call__(self, text: bytes) -> list[int]:
        """Tokenize by the longest match; what is in no token is left out."""
        ids = []
        while text:
            fitting = [i for i in range(1, len(PIECES)) if text.startswith(PIECES[i])]
            best = max(fitting, key=lambda i: len(PIECES[i]), default=END)
            ids += [best] if fitting else []
            text = text[len(PIECES[best]) or 1 :]
        return ids


TOKENIZER = LLTokenizer(TokenizerWrapper(_Vocabulary()))


def compiled(constraint: Constraint, _cpu_s: float = 1.0) -> Grammar:
    """Compile without a child: what tests give is harmless."""
    text = grammar_check.grammar_of(constraint.kind, constraint.source)
    native = LLMatcher(TOKENIZER, text, log_level=0, limits=LIMITS)
    if native.is_error():
        raise GrammarError(native.get_error(), "invalid_grammar")
    return Grammar(TOKENIZER, native)


class Gate:
    """A compiler that waits until it is opened, and counts what it compiles.

    What is in `needs` takes so many CPU seconds, to its own mind.
    """

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.compiled: list[Constraint] = []
        self.needs: dict[Constraint, float] = {}

    def __call__(self, constraint: Constraint, cpu_s: float) -> Grammar:
        self.entered.set()
        assert self.opened.wait(30)
        self.compiled.append(constraint)
        if self.needs.get(constraint, 0) > cpu_s:
            raise TooSlow(f"it takes more than {cpu_s} s", "invalid_regex")
        return compiled(constraint)


_NUMBERS = itertools.count(1 << 32)  # of requests that no test has
SHARED = Constraints(lambda: compiled)  # one thread for all tests


def ready(constraint: Constraint) -> Constraint:
    """Return a constraint that is compiled in `SHARED`."""
    done = threading.Event()
    SHARED.compile(next(_NUMBERS), constraint, lambda _: done.set())
    assert done.wait(30)
    return constraint
