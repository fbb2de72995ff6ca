"""The grammars that runs follow: compiled once for each source, on a thread of their own.

Invariant: neither the step thread nor the text thread ever compiles; they ask, and what was asked
for is handed over by `done`, on the compiling thread, or is there already. What nobody waits for
any more is not begun. Each source is first tried for a moment, which is enough for nearly all;
what takes longer has its time while no other waits for its first try, so it holds up none of them.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from rayhost.engine.grammar import STACK, Grammar, GrammarError, TooSlow
from rayhost.ipc.messages import Constraint, Rejected, Start

FIRST_S = 0.25  # CPU time of a first try: 1 to 10 ms is usual, 70 for 128 functions
LONGEST_S = 2.0  # and of the second one
MAX_KEPT = 64
MAX_KEPT_BYTES = 256 * 1024  # of sources; at the worst 25 MB of grammars
MAX_REFUSED = 16  # apart from those, as a client may have any number of refused sources

Compile = Callable[[Constraint, float], Grammar]  # in CPU seconds, or raises GrammarError
Outcome = Grammar | GrammarError
Done = Callable[[Outcome], None]


@dataclass(frozen=True, slots=True)
class Compiled:
    """For the step loop: what `start` waited for has come, or will never come."""

    start: Start
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class _Asked:
    constraint: Constraint
    done: Done


class _Kept:
    """What some sources came to: the latest used ones, bounded in number and in bytes of source."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._outcomes: OrderedDict[Constraint, Outcome] = OrderedDict()  # the latest used last

    def get(self, constraint: Constraint) -> Outcome | None:
        outcome = self._outcomes.get(constraint)
        if outcome is not None:
            self._outcomes.move_to_end(constraint)
        return outcome

    def keep(self, constraint: Constraint, outcome: Outcome) -> None:
        self._outcomes[constraint] = outcome
        held = sum(len(kept.source) for kept in self._outcomes)
        while len(self._outcomes) > self._most or held > MAX_KEPT_BYTES:
            oldest, _ = self._outcomes.popitem(last=False)
            held -= len(oldest.source)


class Constraints:
    """Compiled grammars of one worker, the latest used ones. Safe to use from any thread."""

    def __init__(self, compiler: Callable[[], Compile]) -> None:
        """`compiler` is called once, on the compiling thread, when something is to be compiled."""
        self._compiler = compiler
        self._changed = threading.Condition()  # guards all of these
        self._untried: dict[int, _Asked] = {}  # by request, in the order that they came
        self._slow: dict[int, _Asked] = {}  # were tried, and need longer
        self._grammars = _Kept(MAX_KEPT)
        self._refusals = _Kept(MAX_REFUSED)
        self._thread: threading.Thread | None = None

    def get(self, constraint: Constraint) -> Outcome | None:
        """Return what is known of a constraint: its grammar, why it has none, or nothing."""
        with self._changed:
            return self._grammars.get(constraint) or self._refusals.get(constraint)

    def compile(self, request_id: int, constraint: Constraint, done: Done) -> None:
        """Compile a constraint in its turn, then call `done` on the compiling thread."""
        with self._changed:
            self._untried[request_id] = _Asked(constraint, done)
            self._changed.notify()
            if self._thread is None:
                self._thread = self._started()

    def drop(self, request_id: int) -> None:
        """Forget what a request waits for, if it does: its `done` is not called."""
        with self._changed:
            self._untried.pop(request_id, None)
            self._slow.pop(request_id, None)

    def _started(self) -> threading.Thread:
        usual = threading.stack_size(STACK)
        try:
            thread = threading.Thread(target=self._compile_forever, name="grammar", daemon=True)
            thread.start()
        finally:
            threading.stack_size(usual)
        return thread

    def _compile_forever(self) -> None:
        compiled = self._compiler()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._untried or self._slow)
                waiting = self._untried or self._slow
                request_id, asked = next(iter(waiting.items()))
            first = waiting is self._untried
            outcome = self._outcome(compiled, asked.constraint, FIRST_S if first else LONGEST_S)
            with self._changed:
                if waiting.pop(request_id, None) is None:  # dropped meanwhile
                    continue
                if first and isinstance(outcome, TooSlow):
                    self._slow[request_id] = asked
                    continue
            asked.done(outcome)

    def _outcome(self, compiled: Compile, constraint: Constraint, cpu_s: float) -> Outcome:
        if known := self.get(constraint):
            return known
        try:
            outcome: Outcome = compiled(constraint, cpu_s)
        except GrammarError as error:
            # Without what led to it, which holds whatever was being compiled.
            outcome = type(error)(str(error), error.code)
        with self._changed:
            if isinstance(outcome, Grammar):
                self._grammars.keep(constraint, outcome)
            elif cpu_s == LONGEST_S or not isinstance(outcome, TooSlow):
                self._refusals.keep(constraint, outcome)
        return outcome


def rejected(error: GrammarError) -> Rejected:
    """Return what a client is told of a constraint that cannot be followed.

    By which parameter it came is for the HTTP layer to say: of several one constraint is made.
    """
    return Rejected(str(error), error.code)
