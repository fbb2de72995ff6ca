"""A flight: one run and everybody who asked for just that, each reading at a pace of their own.

Invariant: the text is held once, as pieces that only grow; a listener is a position in them. The
run is the oldest listener's, whose id its log line bears, and stops when the last one leaves.
Used by `sharing` alone.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable

from rayhost.front.lane import Lane
from rayhost.front.request import CacheOutcome, Finish, GenerateRequest, Standing, Times
from rayhost.front.run import ActiveRun


class Flight:
    """Runs `request`, from now on; `on_end` is called once, when nobody may join any more."""

    def __init__(
        self, lane: Lane, request: GenerateRequest, on_end: Callable[["Flight"], None]
    ) -> None:
        self.model = lane.name
        self.pieces: list[str] = []
        self.run: ActiveRun | None = None  # once it is queued
        self.identity: bytes | None = None  # of the model when it was
        self._terms = request.terms
        self._on_end = on_end
        self._owner: Listener | None = None
        self._listeners: dict[Listener, None] = {}  # the oldest first
        self._flying = asyncio.create_task(self._fly(lane, request))
        self._flying.add_done_callback(self._landed)

    @property
    def over(self) -> bool:
        """True when nothing will be added any more."""
        return self._flying.done()

    @property
    def whole(self) -> bool:
        """True when it is over and the answer is all there."""
        return self.over and not self._flying.cancelled() and self._flying.exception() is None

    def result(self) -> Finish:
        """Return how it ended, or raise what it failed with; only when it is over."""
        return self._flying.result()

    def suits(self, request: GenerateRequest) -> bool:
        """Tell whether a request that asks the same may wait for this run instead of its own.

        Not for one that could end with its owner's deadline, or wait longer than its own would.
        """
        if self._terms.timeout_ms is not None:
            return False
        return bool(self.pieces) or request.terms.priority >= self._terms.priority

    def listen(
        self, request: GenerateRequest, cache: CacheOutcome, on_left: "OnLeft"
    ) -> "Listener":
        """Return a new listener, who must be closed; `on_left` is told of those without a run."""
        listener = Listener(self, request, cache, on_left)
        self._listeners[listener] = None
        return listener

    def leave(self, listener: "Listener") -> bool:
        """Take a listener out. Return whether the log line of the run is this listener's."""
        del self._listeners[listener]
        if not self._listeners and not self.over:
            if self.run is not None:
                self.run.close()
            self._flying.cancel()
        if listener is not self._owner:
            return False
        if self.run is not None and not self.run.outcome:
            self._hand_over(self.run)
            return False
        return True

    async def _fly(self, lane: Lane, request: GenerateRequest) -> Finish:
        run = await lane.submit(request)
        self._hand_over(run)
        self.run, self.identity = run, lane.identity
        self._tell()
        async for piece in run:
            self.pieces.append(piece)
            self._tell()
        return run.finish

    def _landed(self, flying: "asyncio.Task[Finish]") -> None:
        if not flying.cancelled():
            flying.exception()  # each listener raises it; where there is none, nobody has to
        self._on_end(self)
        self._tell()

    def _hand_over(self, run: ActiveRun) -> None:
        self._owner = next(iter(self._listeners))
        run.request = dataclasses.replace(run.request, id=self._owner.request.id)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener.news.set()


class Listener:
    """Implements `front.request.Run` for one client of a flight."""

    def __init__(
        self, flight: Flight, request: GenerateRequest, cache: CacheOutcome, on_left: "OnLeft"
    ) -> None:
        self.request = request
        self.model = flight.model
        self.cache = cache
        self.news = asyncio.Event()  # set by the flight
        self._flight = flight
        self._on_left = on_left
        self._read = 0  # pieces
        self._left = False

    @property
    def run(self) -> ActiveRun:
        """The run it listens to; only once it is admitted."""
        if self._flight.run is None:
            raise RuntimeError(f"request {self.request.id} is not admitted")
        return self._flight.run

    @property
    def finish(self) -> Finish:
        """How it ended; only after the iteration ended normally."""
        return self.run.finish

    @property
    def times(self) -> Times:
        """How far the run came, and when; it may be older than this request."""
        return self.run.times

    def standing(self) -> Standing | None:
        """Return where the run waits; None once it is being answered."""
        return self.run.standing()

    async def admitted(self) -> None:
        """Return once the run is queued. Raises as `Front.submit` does."""
        while self._flight.run is None:
            if self._flight.over:
                self._flight.result()
            await self._news()

    def forsake(self) -> bool:
        """Leave without a run. Return whether there is one by now that tells of this request."""
        self._left = True
        return self._flight.leave(self)

    def close(self) -> None:
        """Leave the flight. Harmless after the end."""
        if not self._left:
            self._left = True
            outcome = self.run.outcome or "cancelled"
            if not self._flight.leave(self):
                self._on_left(self, outcome)

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yield the text from its beginning; what came while the reader was busy, at once."""
        pieces = self._flight.pieces
        while True:
            if self._read < len(pieces):
                new = pieces[self._read :]
                self._read = len(pieces)
                yield "".join(new)
            elif self._flight.over:
                self._flight.result()
                return
            else:
                await self._news()

    async def _news(self) -> None:
        self.news.clear()
        await self.news.wait()


OnLeft = Callable[[Listener, str], None]
