"""The log line and the counts of requests that had no run of their own; a lane tells of the others.

Invariant: every request gives exactly one line. Used by `host` and `sharing`.
"""

import structlog

from rayhost.front.request import CacheOutcome, Finish, GenerateRequest
from rayhost.metrics import Metrics

_log = structlog.get_logger("rayhost.request")


class Tally:
    """Writes to the log and to `metrics`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def looked_up(self, model: str, cache: CacheOutcome) -> None:
        """Count how a request met the result cache."""
        self._metrics.cache(model, cache)

    def shortened(self, model: str) -> None:
        """Count a request that is given fewer tokens than it asked for, as memory is short."""
        self._metrics.degraded(model, "max_tokens")

    def stood_in(self, model: str) -> None:
        """Count a request that another model answers, as there is no memory for its own."""
        self._metrics.degraded(model, "fallback")

    def refused(self, model: str, request: GenerateRequest, outcome: str) -> None:
        """Tell of a request that never ran; `model` is empty for no such model."""
        self._metrics.refused(model, outcome)
        _log.info(
            "request", request_id=request.id, model=model or request.model[:100], outcome=outcome
        )

    def answered(
        self,
        model: str,
        request: GenerateRequest,
        outcome: str,
        cached: CacheOutcome,
        finish: Finish | None,
    ) -> None:
        """Tell of a request that got another's answer; None: it left before the end, or it failed.

        Its tokens count as cached: the run that computed them counted them as generated.
        """
        tokens = finish.completion_tokens if finish else 0
        self._metrics.answered_from_cache(model, outcome, tokens)
        _log.info(
            "request",
            request_id=request.id,
            model=model,
            outcome=outcome,
            prompt_tokens=finish.prompt_tokens if finish else None,
            completion_tokens=tokens,
            cached=cached,
        )
