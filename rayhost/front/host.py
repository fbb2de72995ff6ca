"""The front as the HTTP layer sees it: models by name, their lanes, and whether we are going down.

Holds no request itself; `cli.serve` builds it and the supervisor moves its lanes.
"""

from collections.abc import Callable, Mapping, Sequence

from rayhost import clock
from rayhost.errors import ApiError, ModelNotFound, Unavailable
from rayhost.front.lane import Lane
from rayhost.front.request import GenerateRequest, ModelCard, Recalled, Run, WorkerHealth
from rayhost.front.result_cache import ResultCache
from rayhost.front.sharing import Share, Sharing
from rayhost.front.tally import Tally
from rayhost.metrics import Metrics


class Host:
    """Implements `front.request.Front`."""

    def __init__(
        self,
        lanes: Sequence[Lane],
        metrics: Metrics,
        health: Callable[[], Sequence[WorkerHealth]],
        cache: ResultCache | None = None,
        share: Mapping[str, Share] | None = None,
    ) -> None:
        """`share` says, by a model's name, which of its answers are shared."""
        self._lanes = tuple(lanes)
        self._cache = ResultCache(0, 0) if cache is None else cache
        self._tally = Tally(metrics)
        self._health = health
        self._created = int(clock.unix_seconds())
        self._draining = False
        self._by_name: dict[str, Sharing] = {}
        for lane in lanes:
            kind = (share or {}).get(lane.name, "reproducible")
            sharing = Sharing(lane, self._cache, kind, self._tally)
            self._by_name.update(dict.fromkeys((lane.name, *lane.aliases), sharing))

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

    def recall(self, request: GenerateRequest) -> Recalled | None:
        """Return the answer if it is known already; that ends the request."""
        sharing = self._by_name.get(request.model)
        return None if sharing is None or self._draining else sharing.recall(request)

    async def submit(self, request: GenerateRequest) -> Run:
        """Return a queued run. Raises as `front.request.Front.submit` says."""
        try:
            sharing = self._find(request.model)
        except ApiError as error:
            self._tally.refused("", request, error.code)
            raise
        return await sharing.submit(request)

    def purge_cache(self) -> int:
        """Forget every answer that was kept; return how many there were."""
        return self._cache.clear()

    def _find(self, model: str) -> Sharing:
        if self._draining:
            raise Unavailable("the server is going down", code="draining", retry_after=5)
        if sharing := self._by_name.get(model):
            return sharing
        known = ", ".join(lane.name for lane in self._lanes)
        raise ModelNotFound(
            f"The model {model[:100]!r} does not exist; this host serves: {known}", param="model"
        )
