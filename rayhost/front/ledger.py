"""The end of a run, entered once: its outcome, what it teaches, costs and counts, its log line.

Invariant: every run of a lane passes `close` exactly once, however it ended.
"""

from collections.abc import Callable

import structlog

from rayhost.errors import ApiError
from rayhost.front.admission import Admission
from rayhost.front.run import ActiveRun, summary
from rayhost.ipc.messages import Embedded, Finished
from rayhost.metrics import Metrics

End = Finished | Embedded | ApiError | None  # None: nobody waited any more

_log = structlog.get_logger("rayhost.request")


class Ledger:
    """The books of one model."""

    def __init__(
        self,
        model: str,
        admission: Admission[ActiveRun],
        metrics: Metrics,
        spent: Callable[[str, int], None],
    ) -> None:
        """`spent` hears of tokens that were computed for a key."""
        self._model = model
        self._admission = admission
        self._metrics = metrics
        self._spent = spent

    def close(self, run: ActiveRun, how: End) -> None:
        """Give a run that is neither queued nor started any more its outcome."""
        match how:
            case Finished():
                run.end(how)
                self._learn(run)
            case Embedded():
                run.embedded(how)
                self._learn(run)
            case None:
                run.cancel()
            case _:
                run.fail(how)
        if run.timer is not None:
            run.timer.cancel()
        self._admission.ended(run, len(run.prompt) - run.reused, len(run.produced))
        if run.given_ns:
            self._spent(run.claim.key, len(run.prompt) + len(run.produced))
        self._metrics.ended(
            model=self._model,
            outcome=run.outcome,
            prompt_tokens=len(run.prompt),
            generated_tokens=len(run.produced),
            arrived_ns=run.arrived_ns,
            started_ns=run.started_ns,
            first_token_ns=run.first_token_ns,
            ended_ns=run.ended_ns,
        )
        _log.info("request", **summary(run))

    def _learn(self, run: ActiveRun) -> None:
        """Take from an answered run how fast the box is."""
        self._admission.in_time(
            run.claim, arrived_ns=run.arrived_ns, begun_ns=run.given_ns, now_ns=run.ended_ns
        )
        self._admission.rate.ended(run.ended_ns)
        if run.started_ns and not run.gave_way:  # else the times hold a pause, or are not known
            self._admission.speed.learn(
                prompt=len(run.prompt),
                answer=len(run.produced),
                started_ns=run.started_ns,
                first_ns=run.first_token_ns,
                ended_ns=run.ended_ns,
            )
