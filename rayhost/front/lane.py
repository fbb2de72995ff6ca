"""A lane: everything in the front about one model - its queue, its runs, its worker's link.

Invariant: a run is in `_queue` or in `_started`, never both, and leaves with an outcome. The lane
outlives its workers: `attach` and `detach` may come any number of times, and what was started in
a lost worker goes back to the head of the queue to be resumed from its tokens.
"""

import asyncio
from collections import deque
from typing import Literal

import structlog

from rayhost import clock
from rayhost.errors import ApiError, QueueFull, WorkerLost
from rayhost.front.drain_rate import DrainRate
from rayhost.front.prompts import Outlet, Prompts, check, numbers, refusal
from rayhost.front.request import GenerateRequest
from rayhost.front.run import ActiveRun, summary
from rayhost.ipc.messages import Cancel, Finished, Message, Prepared, Ready, Rejected, Tokens
from rayhost.metrics import Metrics

State = Literal["starting", "loading", "ready", "restarting", "failed", "stopped"]
LOOK_AHEAD = 2  # started beyond the worker's sequences, so that a freed one is filled at once
MAX_BARREN_DEATHS = 2  # a request under which workers die this often without a token is the cause

_log = structlog.get_logger("rayhost.request")


class Lane:
    """One model as the front sees it. `state`, `reason` and `identity` are the supervisor's to set."""

    def __init__(
        self,
        *,
        name: str,
        aliases: tuple[str, ...],
        concurrency: int,
        queue_limit: int,
        metrics: Metrics,
    ) -> None:
        self.name = name
        self.aliases = aliases
        self.state: State = "starting"
        self.reason = ""
        self.context = 0
        self.chat = False
        self.identity = b""  # of all that answers depend on; empty before the first worker
        self._vocabulary = 0
        self._concurrency = concurrency
        self._queue_limit = queue_limit
        self._metrics = metrics
        self._rate = DrainRate()
        self._link: Outlet | None = None
        self._settled = asyncio.Event()  # a worker is attached, or there will never be one
        self._closing: ApiError | None = None
        self._open = 0  # requests that came and have not ended
        self.idle = asyncio.Event()  # set while there are none
        self.idle.set()
        self._prompts = Prompts()
        self._queue: deque[ActiveRun] = deque()
        self._started: dict[int, ActiveRun] = {}

    @property
    def queued(self) -> int:
        """Requests that wait for a worker to start them."""
        return self._open - len(self._started)

    # What the supervisor says.

    def attach(self, link: Outlet, ready: Ready) -> None:
        """A worker is ready for work."""
        self._link = link
        self.context = ready.context
        self.chat = ready.chat
        self._vocabulary = ready.vocabulary
        self._settled.set()
        self._dispatch()

    def detach(self) -> None:
        """The worker is gone: resume its runs in the next one, in the order they came."""
        self._link = None
        self._settled.clear()
        self._prompts.fail(WorkerLost("the worker died while reading the prompt"))
        lost = list(self._started.values())
        self._started.clear()
        for run in reversed(lost):
            run.barren_deaths += run.barren
            if run.barren_deaths < MAX_BARREN_DEATHS:
                self._queue.appendleft(run)
                continue
            self._end(run, WorkerLost(f"the worker died {MAX_BARREN_DEATHS} times on this request"))

    def close(self, error: ApiError) -> None:
        """There will be no worker again: every request of this lane fails with `error`."""
        self._closing = error
        self._settled.set()
        self._prompts.fail(error)
        for run in [*self._started.values(), *self._queue]:
            self._withdraw(run)
            self._end(run, error)

    # What the HTTP layer asks.

    async def submit(self, request: GenerateRequest) -> ActiveRun:
        """Return a queued run. Raises as `Front.submit` does."""
        arrived = clock.now_ns()
        if self.queued >= self._queue_limit + self._idle():
            raise QueueFull(
                f"{self.queued} requests are waiting for {self.name!r}; its queue holds "
                f"{self._queue_limit}",
                retry_after=self._rate.retry_after(self.queued),
            )
        self._count(+1)
        try:
            prompt = await self._prompts.read(request.prompt, self._worker)
            check(
                prompt,
                request.prompt,
                model=self.name,
                context=self.context,
                vocabulary=self._vocabulary,
            )
            if self._closing is not None:  # after the tokens came, before this task had its turn
                raise self._closing.with_traceback(None)
        except BaseException:  # a cancelled task, too, has left
            self._count(-1)
            raise
        limit = self.context - len(prompt)
        run = ActiveRun(
            model=self.name,
            number=next(numbers),
            request=request,
            prompt=prompt,
            max_tokens=limit if request.max_tokens is None else min(limit, request.max_tokens),
            arrived_ns=arrived,
            on_close=self._cancel,
        )
        self._queue.append(run)
        self._dispatch()
        return run

    def _idle(self) -> int:
        """Requests that would start at once."""
        return max(0, self._concurrency - len(self._started)) if self._link else 0

    async def _worker(self) -> Outlet:
        while True:
            await self._settled.wait()
            if self._closing is not None:
                # The same error each time; its traceback would grow by every request it ends.
                raise self._closing.with_traceback(None)
            if self._link is not None:  # it may have died again before this task had its turn
                return self._link

    # What the worker says.

    def hear(self, number: int, message: Message) -> None:
        """Take a worker's message. Those for requests that ended meanwhile are dropped."""
        match message:
            case Tokens():
                if run := self._started.get(number):
                    was_suspect = run.suspect
                    run.feed(message)
                    if was_suspect:  # cleared: the next one may be tried
                        self._dispatch()
            case Finished():
                if run := self._started.pop(number, None):
                    self._end(run, message)
                    self._dispatch()
            case Prepared():
                self._prompts.answer(number, message)
            case Rejected():
                if self._prompts.answer(number, message):
                    return
                if run := self._started.pop(number, None):
                    self._end(run, refusal(message))
                    self._dispatch()
            case _:
                raise ValueError(f"a ready worker does not send {type(message).__name__}")

    def _dispatch(self) -> None:
        """Start what the worker can take now.

        Of the runs that saw a worker die before it gave them a token, one at a time: so the one
        that kills workers is found, and the others do not fall with it again.
        """
        room = self._concurrency + LOOK_AHEAD
        while self._link is not None and self._queue and len(self._started) < room:
            run = self._queue[0]
            if run.suspect and any(other.suspect for other in self._started.values()):
                return
            self._queue.popleft()
            self._started[run.number] = run
            run.barren = True
            self._link.send(run.number, run.start_message())

    def _cancel(self, run: ActiveRun) -> None:
        self._withdraw(run)
        self._end(run, None)
        self._dispatch()

    def _withdraw(self, run: ActiveRun) -> None:
        if self._started.pop(run.number, None) is None:
            self._queue.remove(run)
        elif self._link is not None:
            self._link.send(run.number, Cancel())

    def _end(self, run: ActiveRun, how: Finished | ApiError | None) -> None:
        """The one way out of the lane: the run gets its outcome, the operator a log line."""
        match how:
            case Finished():
                run.end(how)
                self._rate.ended(run.ended_ns)
            case None:
                run.cancel()
            case _:
                run.fail(how)
        self._count(-1)
        self._metrics.ended(
            model=self.name,
            outcome=run.outcome,
            prompt_tokens=len(run.prompt),
            generated_tokens=len(run.produced),
            arrived_ns=run.arrived_ns,
            started_ns=run.started_ns,
            first_token_ns=run.first_token_ns,
            ended_ns=run.ended_ns,
        )
        _log.info("request", **summary(run))

    def _count(self, change: int) -> None:
        self._open += change
        if self._open:
            self.idle.clear()
        else:
            self.idle.set()
            self._rate.idle()
