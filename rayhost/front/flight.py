"""A flight: one run and everybody who asked for just that, each reading at a pace of their own.

Invariant: the text is held once, as pieces that only grow; a listener is a position in them. The
run is the oldest listener's, whose id its log line bears, and stops when the last one leaves. It
waits on the terms of one of them: what these forbid ends that one's request, never another's.
Used by `sharing` alone.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable

import msgspec

from rayhost.errors import ApiError, DeadlineExceeded, Overloaded, QueueFull
from rayhost.front.lane import Lane
from rayhost.front.request import CacheOutcome, Finish, GenerateRequest, Piece, Standing, Times
from rayhost.front.run import ActiveRun

# A run's deadline may come so much before that of one who joins it, as a part of the time left:
# requests that are sent together do not come at the same instant.
SLACK = 0.05
_OF_TERMS = (QueueFull, Overloaded, DeadlineExceeded)


class Flight:
    """Runs `request`, from now on; `on_end` is called once, when nobody may join any more."""

    def __init__(
        self, lane: Lane, request: GenerateRequest, on_end: Callable[["Flight"], None]
    ) -> None:
        self.lane = lane
        self.model = lane.name
        self.pieces: list[str] = []
        self.run: ActiveRun | None = None  # once it is queued
        self.era: int | None = None  # of the lane when it was
        self.admitted = False
        self._terms = request.terms  # that it waits on
        self._until_s = _until_s(request)
        self._on_end = on_end
        self._owner: Listener | None = None  # whose id the run's log line bears
        self._payer: Listener | None = None  # whose terms those are
        self._listeners: dict[Listener, None] = {}  # the oldest first
        self._abandoned = False
        self._flying = asyncio.create_task(self._fly(lane, request))
        self._flying.add_done_callback(self._landed)

    @property
    def over(self) -> bool:
        """True when nothing will be added any more."""
        return self._flying.done()

    @property
    def joinable(self) -> bool:
        """False once everybody left it or it failed: who comes now is to have a run of their own.

        It may be found for some turns of the loop after that.
        """
        return not self._abandoned and (not self.over or self.whole)

    @property
    def whole(self) -> bool:
        """True when it is over and the answer is all there."""
        return self.over and not self._flying.cancelled() and self._flying.exception() is None

    def result(self) -> Finish:
        """Return how it ended, or raise what it failed with; only when it is over."""
        return self._flying.result()

    def suits(self, request: GenerateRequest) -> bool:
        """Tell whether a request that asks the same may wait for this run instead of its own.

        Not for one that would end before its own had to, or wait longer than its own would.
        """
        left_s = self._until_s - asyncio.get_running_loop().time()
        if _until_s(request) > self._until_s + SLACK * left_s:
            return False
        return bool(self.pieces) or request.terms.priority >= self._terms.priority

    def listen(
        self, request: GenerateRequest, cache: CacheOutcome, on_left: "OnLeft"
    ) -> "Listener":
        """Return a new listener, who must be closed; `on_left` is told of those without a run."""
        listener = Listener(self, request, cache, on_left)
        self._listeners[listener] = None
        self._payer = self._payer or listener
        return listener

    def leave(self, listener: "Listener") -> bool:
        """Take a listener out. Return whether the log line of the run is this listener's."""
        del self._listeners[listener]
        if not self._listeners and not self.over:
            self._abandoned = True
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
        while True:
            try:
                return await self._run(lane, request)
            except _OF_TERMS as refusal:
                request = self._next(refusal)

    async def _run(self, lane: Lane, request: GenerateRequest) -> Finish:
        run = await lane.submit(request)
        self._hand_over(run)
        self.run, self.era, self.admitted = run, lane.era, True
        self._tell()
        async for piece in run:
            self.pieces.append(piece.text)
            self._tell()
        return run.finish

    def _next(self, refusal: ApiError) -> GenerateRequest:
        """End the request on whose terms nothing can be had; return another's, or raise `refusal`.

        Of those whose own deadline comes last, as the run ends by it, the oldest. Once there is
        text, which others may have sent on, there is no way back.
        """
        if self.pieces:
            raise refusal
        if self._payer in self._listeners:
            del self._listeners[self._payer]
            self._payer.refuse(refusal, told=self.admitted and self._payer is self._owner)
        if not self._listeners:
            self._abandoned = True
            raise refusal
        self.admitted, self._owner = False, None
        self._payer = max(self._listeners, key=lambda one: one.until_s)
        self._until_s = self._payer.until_s
        request = self._payer.take_over()
        self._terms = request.terms
        return request

    def _landed(self, flying: "asyncio.Task[Finish]") -> None:
        if not flying.cancelled():
            flying.exception()  # each listener raises it; where there is none, nobody has to
        self._on_end(self)
        self._tell()

    def _hand_over(self, run: ActiveRun) -> None:
        self._owner = next(iter(self._listeners))
        run.request = msgspec.structs.replace(run.request, id=self._owner.request.id)

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
        # The run ends by its payer's deadline; one who joined it brings a deadline of its own.
        self.until_s = _until_s(request) if cache == "joined" else math.inf
        self._late = False
        self._refusal: ApiError | None = None  # of this listener alone
        self._told = False  # the refused run's log line was this listener's

    @property
    def run(self) -> ActiveRun:
        """The run it listens to; only once it is admitted."""
        if self._flight.run is None:
            raise RuntimeError(f"request {self.request.id} is not admitted")
        return self._flight.run

    @property
    def fingerprint(self) -> str:
        """What the answer depends on besides the request."""
        return self.run.fingerprint

    @property
    def tool_syntax(self) -> str:
        """How the answer writes calls of tools; empty: it has none."""
        return self.run.tool_syntax

    @property
    def finish(self) -> Finish:
        """How it ended; only after the iteration ended normally."""
        return self.run.finish

    @property
    def prompt_tokens(self) -> int:
        """How long the prompt is."""
        return self.run.prompt_tokens

    @property
    def times(self) -> Times:
        """How far the run came, and when; it may be older than this request."""
        return self.run.times

    def standing(self) -> Standing | None:
        """Return where the run waits; None once it is being answered."""
        return self.run.standing()

    async def admitted(self) -> None:
        """Return once the run is queued. Raises as `Front.submit` does."""
        while not self._flight.admitted:
            self._check()
            if self._flight.over:
                self._flight.result()
            await self._news()

    def forsake(self) -> bool:
        """Leave without a run. Return whether there is one by now that tells of this request."""
        self._left = True
        return self._told if self._refusal else self._flight.leave(self)

    def refuse(self, refusal: ApiError, *, told: bool) -> None:
        """Have the request end with `refusal`, out of the flight; `told`: its line is written."""
        self._refusal, self._told = refusal, told
        self.news.set()

    def take_over(self) -> GenerateRequest:
        """Return the request, whose deadline is the run's from now on."""
        self.until_s = math.inf
        return self.request

    def close(self) -> None:
        """Leave the flight. Harmless after the end."""
        if self._left:
            return
        outcome = self._outcome()
        if not self.forsake():
            self._on_left(self, outcome)

    def _outcome(self) -> str:
        if self._refusal is not None:
            return self._refusal.code
        if self._late:
            return DeadlineExceeded.code
        return (self._flight.admitted and self.run.outcome) or "cancelled"

    def _check(self) -> None:
        if self._refusal is not None:
            raise self._refusal

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """Yield the text from its beginning; what came while the reader was busy, at once."""
        pieces = self._flight.pieces
        while True:
            if self._read < len(pieces):
                new = pieces[self._read :]
                self._read = len(pieces)
                yield Piece("".join(new))
                continue
            self._check()
            if self._flight.over:
                self._flight.result()
                return
            await self._news()

    async def _news(self) -> None:
        self.news.clear()
        try:
            async with asyncio.timeout_at(None if self.until_s == math.inf else self.until_s):
                await self.news.wait()
        except TimeoutError:
            self._late = True
            raise self._flight.lane.late("while the answer was computed") from None


def _until_s(request: GenerateRequest) -> float:
    """Return when a request must be answered, by the loop's clock, which is `clock.now_ns`."""
    deadline_ns = request.terms.deadline_ns
    return math.inf if deadline_ns is None else deadline_ns / 1e9


OnLeft = Callable[[Listener, str], None]
