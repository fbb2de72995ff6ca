"""How the end of a run is told: what was held back of its text, and how it went.

Invariant: nothing is told of a run after this. The caller, the step loop, frees its sequence.
"""

from collections.abc import Callable

from rayhost.ipc.messages import Finished, Rejected, Tokens
from rayhost.ipc.status import StatusPage, Word
from rayhost.worker.outbox import Out
from rayhost.worker.runs import Reason
from rayhost.worker.sequence import Sequence


class Endings:
    """Tells `out`, and counts on the status page. `now` gives CLOCK_MONOTONIC nanoseconds."""

    def __init__(self, out: Out, status: StatusPage, now: Callable[[], int]) -> None:
        self._out = out
        self._status = status
        self._now = now

    def finished(self, sequence: Sequence, reason: Reason) -> None:
        """A run is over whose text is told."""
        now = self._now()
        self._out.send(
            sequence.request_id,
            Finished(
                reason=reason,
                n_prompt=sequence.n_prompt,
                n_generated=sequence.n_generated,
                started_ns=sequence.started_ns or now,
                first_token_ns=sequence.first_token_ns or now,
                finished_ns=now,
                stop_sequence=sequence.text.stopped_by,
            ),
        )
        self._status[Word.FINISHED] += 1

    def cut(self, sequence: Sequence, reason: Reason) -> None:
        """A run is over without another token: some of its text may be held back."""
        text = sequence.text.close()
        self._out.send(sequence.request_id, Tokens((), text, settled=sequence.settled))
        self.finished(sequence, reason)

    def guided(self, sequence: Sequence, outcome: Rejected | None) -> None:
        """The grammar of a run lets nothing follow, or cannot be followed any further."""
        if outcome is None:
            self.cut(sequence, "stop")
        else:
            self._out.send(sequence.request_id, outcome)
