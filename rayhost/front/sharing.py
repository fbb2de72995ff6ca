"""What one model computed, or computes now, given to everybody who asks the same.

Invariant: an answer is shared only where computing it again would give it again, or the operator
says so, and never between two models, files or settings. One `Sharing` for each lane, made by
`host`; the `ResultCache` is the whole host's.
"""

import asyncio
from functools import partial
from typing import Literal

from rayhost.errors import ApiError
from rayhost.front.canonical import canonical_key, reproducible
from rayhost.front.flight import Flight, Listener
from rayhost.front.lane import Lane
from rayhost.front.request import GenerateRequest, Question, Reading, Recalled, Run, Terms
from rayhost.front.result_cache import ResultCache
from rayhost.front.tally import Tally

Share = Literal["reproducible", "all", "none"]  # of which requests answers are shared


class Sharing:
    """The way to a lane that may be cut short."""

    def __init__(self, lane: Lane, cache: ResultCache, share: Share, tally: Tally) -> None:
        self._lane = lane
        self._cache = cache
        self._share = share
        self._tally = tally
        # By the cache's generation as well: a purge covers what was begun before it.
        self._flights: dict[tuple[int, bytes], Flight] = {}
        self._identity = b""  # of the model that the cached answers are from

    @property
    def model(self) -> str:
        """The model's name."""
        return self._lane.name

    def recall(self, request: GenerateRequest) -> Recalled | None:
        """Return the answer if it is known already; that ends the request."""
        if request.reuse != "any" or not self._shared(request):
            return None
        found = self._cache.get(self._stored_as(canonical_key(request)))
        if found is not None:
            self._tally.looked_up(self._lane.name, "hit")
            self._tally.answered(self._lane.name, request, found.finish.reason, "hit", found.finish)
        return found

    async def submit(self, request: GenerateRequest) -> Run:
        """Return a queued run, perhaps another's. Raises as `Front.submit` says."""
        if request.reuse == "never" or not self._shared(request):
            return await self._alone(request)
        listener = self._listener(request)
        self._tally.looked_up(self._lane.name, listener.cache)
        try:
            await listener.admitted()
        except (ApiError, asyncio.CancelledError) as failure:
            if not listener.forsake():
                self._refused(request, failure)
            raise
        return listener

    async def _alone(self, request: GenerateRequest) -> Run:
        self._tally.looked_up(self._lane.name, "bypass")
        try:
            return await self._lane.submit(request)
        except (ApiError, asyncio.CancelledError) as failure:
            self._refused(request, failure)
            raise

    async def ask(self, question: Question, terms: Terms) -> Reading:
        """Return what the model's text thread makes of a question. Raises as `Front.ask` says."""
        return await self._lane.ask(question, terms)

    def _shared(self, request: GenerateRequest) -> bool:
        if request.logprobs is not None:  # only text is kept
            return False
        if self._share == "reproducible":
            return reproducible(request)
        return self._share == "all"

    def _listener(self, request: GenerateRequest) -> Listener:
        """Return a place in the flight that answers the request, begun for it if there is none."""
        key = canonical_key(request)
        place = self._cache.generation, key
        flight = self._flights.get(place)
        if request.reuse == "any" and flight and self._serves(flight, request):
            return flight.listen(request, "joined", self._left)
        flight = Flight(self._lane, request, partial(self._landed, place))
        self._flights[place] = flight  # from here on identical requests join this one
        return flight.listen(request, "miss" if request.reuse == "any" else "bypass", self._left)

    def _serves(self, flight: Flight, request: GenerateRequest) -> bool:
        return flight.joinable and self._current(flight) and flight.suits(request)

    def _current(self, flight: Flight) -> bool:
        """Tell whether what answers there is what would answer here, and was all the time.

        One that lived through other settings, perhaps cut short by them, has an answer of its own
        also where those of before are back.
        """
        return flight.era is None or flight.era == self._lane.era

    def _landed(self, place: tuple[int, bytes], flight: Flight) -> None:
        if self._flights.get(place) is flight:
            del self._flights[place]
        generation, key = place
        if self._cache.generation != generation:
            return
        # A run that another model or file carried on is nobody's answer but its listeners'.
        if flight.whole and flight.run and flight.era and self._current(flight):
            self._cache.put(
                self._stored_as(key),
                self._lane.name,
                flight.pieces,
                flight.result(),
                tool_syntax=flight.run.tool_syntax,
                fingerprint=flight.run.fingerprint,
            )

    def _stored_as(self, key: bytes) -> bytes:
        """Return the cache's key, having dropped what a former model or file answered."""
        if self._identity != self._lane.identity:
            self._identity = self._lane.identity
            self._cache.drop(self._lane.name)
        return self._identity + key

    def _left(self, listener: Listener, outcome: str) -> None:
        finish = listener.run.finish if outcome in ("stop", "length") else None
        self._tally.answered(self._lane.name, listener.request, outcome, listener.cache, finish)

    def _refused(self, request: GenerateRequest, failure: BaseException) -> None:
        outcome = failure.code if isinstance(failure, ApiError) else "cancelled"
        self._tally.refused(self._lane.name, request, outcome)
