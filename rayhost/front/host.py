"""The front as the HTTP layer sees it: models by name, their lanes, and whether we are going down.

Holds no request itself; `cli.serve` builds it and the supervisor moves its lanes.
"""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from rayhost import clock
from rayhost.errors import ApiError, ModelNotFound, Unavailable
from rayhost.front.lane import Lane
from rayhost.front.request import GenerateRequest, ModelCard, Run, WorkerHealth
from rayhost.metrics import Metrics

_log = structlog.get_logger("rayhost.request")


class Host:
    """Implements `front.request.Front`."""

    def __init__(
        self,
        lanes: Sequence[Lane],
        metrics: Metrics,
        health: Callable[[], Sequence[WorkerHealth]],
    ) -> None:
        self._lanes = tuple(lanes)
        self._metrics = metrics
        self._health = health
        self._created = int(clock.unix_seconds())
        self._draining = False
        self._by_name = {lane.name: lane for lane in lanes}
        for lane in lanes:
            self._by_name.update(dict.fromkeys(lane.aliases, lane))

    def cards(self) -> Sequence[ModelCard]:
        """Every model of the profile, in its order."""
        return [
            ModelCard(
                name=lane.name,
                aliases=lane.aliases,
                state=lane.state,
                reason=lane.reason,
                created=self._created,
                context=lane.context,
            )
            for lane in self._lanes
        ]

    def health(self) -> Sequence[WorkerHealth]:
        """Every worker, read from its status page without asking it."""
        return self._health()

    def draining(self) -> bool:
        """True once the host is going down."""
        return self._draining

    def drain(self) -> None:
        """Take no new request from now on; those that were taken go on."""
        self._draining = True

    async def idle(self) -> None:
        """Return once no request is left; with `drain`, none will come."""
        for lane in self._lanes:
            await lane.idle.wait()

    async def submit(self, request: GenerateRequest) -> Run:
        """Return a queued run. Raises as `front.request.Front.submit` says."""
        name = ""
        try:
            if self._draining:
                raise Unavailable("the server is going down", code="draining", retry_after=5)
            lane = self._by_name.get(request.model)
            if lane is None:
                known = ", ".join(lane.name for lane in self._lanes)
                raise ModelNotFound(
                    f"The model {request.model[:100]!r} does not exist; this host serves: {known}",
                    param="model",
                )
            name = lane.name
            return await lane.submit(request)
        except ApiError as error:
            self._refused(name, request, error.code)
            raise
        except asyncio.CancelledError:
            self._refused(name, request, "cancelled")
            raise

    def _refused(self, name: str, request: GenerateRequest, outcome: str) -> None:
        """The way out for a request that never became a run; `name` is empty for no such model."""
        self._metrics.refused(name, outcome)
        _log.info(
            "request", request_id=request.id, model=name or request.model[:100], outcome=outcome
        )
