"""The grammars that runs follow: compiled once for each source, on a thread of their own.

Invariant: neither the step thread nor the text thread ever compiles; they ask, and what was asked
for is handed over by `done`, on the compiling thread, or is there already. Bounded by what the
sources take, as a compiled one takes memory in proportion.
"""

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from rayhost.engine.grammar import STACK, Grammar, GrammarError
from rayhost.ipc.messages import Constraint, Rejected, Start

MAX_KEPT = 64
MAX_KEPT_BYTES = 256 * 1024  # of sources; at the worst 25 MB of grammars

Compile = Callable[[Constraint], Grammar]  # or raises GrammarError
Outcome = Grammar | GrammarError
Done = Callable[[Outcome], None]


@dataclass(frozen=True, slots=True)
class Compiled:
    """For the step loop: what `start` waited for has come, or will never come."""

    start: Start
    outcome: Outcome


class Constraints:
    """Compiled grammars of one worker, the latest used ones. Safe to use from any thread."""

    def __init__(self, compiler: Callable[[], Compile]) -> None:
        """`compiler` is called once, on the compiling thread, when something is to be compiled."""
        self._compiler = compiler
        self._asked: queue.SimpleQueue[tuple[Constraint, Done]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._kept: OrderedDict[Constraint, Outcome] = OrderedDict()  # the latest used last
        self._thread: threading.Thread | None = None

    def get(self, constraint: Constraint) -> Outcome | None:
        """Return what is known of a constraint: its grammar, why it has none, or nothing."""
        with self._lock:
            outcome = self._kept.get(constraint)
            if outcome is not None:
                self._kept.move_to_end(constraint)
            return outcome

    def compile(self, constraint: Constraint, done: Done) -> None:
        """Compile a constraint in its turn, then call `done` on the compiling thread."""
        self._asked.put((constraint, done))
        with self._lock:
            if self._thread is None:
                self._thread = self._started()

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
            constraint, done = self._asked.get()
            done(self.get(constraint) or self._outcome(compiled, constraint))

    def _outcome(self, compiled: Compile, constraint: Constraint) -> Outcome:
        try:
            outcome: Outcome = compiled(constraint)
        except GrammarError as error:
            # Without what led to it, which holds whatever was being compiled.
            outcome = GrammarError(str(error), error.code)
        self._keep(constraint, outcome)
        return outcome

    def _keep(self, constraint: Constraint, outcome: Outcome) -> None:
        with self._lock:
            self._kept[constraint] = outcome
            held = sum(len(kept.source) for kept in self._kept)
            while len(self._kept) > MAX_KEPT or held > MAX_KEPT_BYTES:
                oldest, _ = self._kept.popitem(last=False)
                held -= len(oldest.source)


def rejected(error: GrammarError) -> Rejected:
    """Return what a client is told of a constraint that cannot be followed.

    By which parameter it came is for the HTTP layer to say: of several one constraint is made.
    """
    return Rejected(str(error), error.code)
