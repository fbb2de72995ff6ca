"""The front as the HTTP layer sees it: models by name, their lanes, and whether we are going down.

Holds no request itself; `cli.service` builds it, the supervisor moves its lanes, and the governor
sets `relief`.
"""

from collections.abc import Callable, Mapping, Sequence

from rayhost import clock
from rayhost.errors import ApiError, ModelNotFound, Unavailable
from rayhost.front.lane import Lane
from rayhost.front.relief import NONE, Relief
from rayhost.front.request import (
    GenerateRequest,
    ModelCard,
    Question,
    Reading,
    Recalled,
    Run,
    Terms,
    WorkerHealth,
)
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
        self._lanes: tuple[Lane, ...] = ()
        self._cache = ResultCache(0, 0) if cache is None else cache
        self._tally = Tally(metrics)
        self._health = health
        self._created = int(clock.unix_seconds())
        self._draining = False
        self.relief: Relief = NONE
        self._sharing: dict[tuple[Lane, Share], Sharing] = {}
        self._by_name: dict[str, Sharing] = {}
        self.serve(lanes, share or {})

    def serve(self, lanes: Sequence[Lane], share: Mapping[str, Share]) -> None:
        """Let names lead to these lanes from now on; requests of others go on where they are."""
        old, self._sharing = self._sharing, {}
        self._lanes = tuple(lanes)
        self._by_name = {}
        for lane in lanes:
            kind = share.get(lane.name, "reproducible")
            sharing = old.get((lane, kind)) or Sharing(lane, self._cache, kind, self._tally)
            self._sharing[lane, kind] = sharing
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
                concurrency=lane.concurrency,
                capabilities=lane.capabilities,
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

    def relieve(self, relief: Relief) -> None:
        """Spare requests this from now on."""
        self.relief = relief

    def recall(self, request: GenerateRequest) -> Recalled | None:
        """Return the answer if it is known already; that ends the request."""
        sharing = self._by_name.get(request.model)
        return None if sharing is None or self._draining else sharing.recall(request)

    async def submit(self, request: GenerateRequest) -> Run:
        """Return a queued run. Raises as `front.request.Front.submit` says."""
        model = ""
        try:
            sharing = self._find(request.model)
            model = sharing.model
            self.relief.check(request)
            sharing = self._instead(sharing)
        except ApiError as error:
            self._tally.refused(model, request, error.code)
            raise
        shortened = self.relief.shortened(request)
        if shortened is not request:
            self._tally.shortened(model)
        return await sharing.submit(shortened)

    async def ask(self, model: str, question: Question, terms: Terms) -> Reading:
        """Return what a model's text thread makes of a question. Raises as `Front.ask` says."""
        return await self._find(model).ask(question, terms)

    def purge_cache(self) -> int:
        """Forget every answer that was kept; return how many there were."""
        return self._cache.clear()

    def _instead(self, sharing: Sharing) -> Sharing:
        """Return who answers for a model: another one, while there is no memory for it."""
        other = self._by_name.get(self.relief.instead.get(sharing.model, ""))
        if other is None:
            return sharing
        self._tally.stood_in(sharing.model)
        return other

    def _find(self, model: str) -> Sharing:
        if self._draining:
            raise Unavailable("the server is going down", code="draining", retry_after=5)
        if sharing := self._by_name.get(model):
            return sharing
        known = ", ".join(lane.name for lane in self._lanes)
        raise ModelNotFound(
            f"The model {model[:100]!r} does not exist; this host serves: {known}", param="model"
        )
