"""A lane: everything in the front about one model - its queue, its runs, its worker's link.

Invariant: a run waits in `_queue` or is in `_started`, never both, and leaves with an outcome. The
lane outlives its workers: `attach` and `detach` may come any number of times, and what was started
in a lost worker goes back to the head of the queue to be resumed from its tokens.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Literal

from rayhost import clock
from rayhost.errors import (
    ApiError,
    DeadlineExceeded,
    WorkerLost,
)
from rayhost.front.admission import Admission, Bounds
from rayhost.front.berth import Berth
from rayhost.front.blame import Death, culprit
from rayhost.front.dispatch import next_move
from rayhost.front.fair import Claim
from rayhost.front.intake import Hooks, Intake
from rayhost.front.ledger import End, Ledger
from rayhost.front.prompts import Outlet, numbers, refusal
from rayhost.front.quarantine import Quarantine
from rayhost.front.request import (
    Capabilities,
    GenerateRequest,
    Priority,
    Question,
    Reading,
    Standing,
    Terms,
)
from rayhost.front.run import ActiveRun
from rayhost.front.served import Served
from rayhost.front.state import RequestState
from rayhost.ipc.messages import (
    Cancel,
    Compiling,
    Converted,
    Embedded,
    Finished,
    Message,
    Prepared,
    Ready,
    Rejected,
    Tokens,
    Unexpected,
    unpack_tokens,
)
from rayhost.metrics import Metrics

State = Literal["starting", "loading", "ready", "restarting", "failed", "stopped", "unloaded"]
# Clients hang up when their own time-out is over, a little before ours: who leaves with less than
# this share of it to come has waited too long.
_GIVEN_UP = 0.1
LOOK_AHEAD = 2  # started beyond the worker's sequences, so that a freed one is filled at once


class Lane:
    """One model as the front sees it.

    `state`, `reason`, `identity` and `concurrency`, the sequences of its worker, are the
    supervisor's to set.
    """

    def __init__(
        self,
        *,
        name: str,
        aliases: tuple[str, ...],
        concurrency: int,
        bounds: Bounds,
        metrics: Metrics,
        spent: Callable[[str, int], None] = lambda _key, _tokens: None,
    ) -> None:
        """`spent` hears of tokens that were computed for a key, when a run ends."""
        self.name = name
        self.aliases = aliases
        self.state: State = "starting"
        self.reason = ""
        self._served = Served(name)
        self._identity = b""
        self.era = 0  # identities that it has had, one after the other
        self.concurrency = concurrency
        # Somebody asks while it is unloaded, or for what takes more memory than before.
        self.on_wanted: Callable[[], None] = lambda: None
        # Raises Overloaded where the first structured output of a worker has no room.
        self.on_constrained: Callable[[], None] = lambda: None
        self.constrained = False  # its worker has what it takes to have answers follow a grammar
        self.full_context = 0  # while memory is short, the one of other times; else 0
        self._ahead = LOOK_AHEAD
        self._metrics = metrics
        self._berth = Berth(self._wake)
        self._open = 0  # requests that came and have not ended
        self._used_ns = clock.now_ns()
        self.idle = asyncio.Event()  # set while there are none
        self.idle.set()
        hooks = Hooks(late=self.late, suits=self._check_suits, spent=spent)
        self._quarantine = Quarantine()
        self._intake = Intake(self._berth, hooks)
        self._prompts = self._intake.prompts
        self._admission = Admission[ActiveRun](bounds, concurrency)
        self._queue = self._admission.queue
        self._ledger = Ledger(name, self._admission, metrics, spent)
        self._started: dict[int, ActiveRun] = {}

    @property
    def identity(self) -> bytes:
        """What all answers depend on besides the request; empty before the first worker."""
        return self._identity

    @identity.setter
    def identity(self, identity: bytes) -> None:
        if identity != self._identity:
            self.era += 1
            self._quarantine.clear()
        self._identity = identity

    @property
    def context(self) -> int:
        """How many tokens a request may use, prompt and answer together; 0 before any worker."""
        return self._served.context

    @property
    def least_context(self) -> int:
        """How many tokens a worker's context must hold: of who was accepted, and preloaded."""
        accepted: list[ActiveRun] = [*self._started.values(), *self._queue]
        return max([self._served.preloaded + 1, *(run.least_context for run in accepted)])

    @property
    def capabilities(self) -> Capabilities | None:
        """What the last worker's model can do."""
        return self._served.capabilities

    @property
    def width(self) -> int:
        """How many requests with a deadline are computed together."""
        return int(self._admission.width)

    @property
    def idle_ns(self) -> int:
        """For how long nobody has asked anything of the model; 0 while somebody does."""
        return 0 if self._open or self._intake.asking else clock.now_ns() - self._used_ns

    @property
    def queued(self) -> int:
        """Requests that wait for a worker to start them."""
        return self._open - len(self._started)

    @property
    def queued_by_priority(self) -> Counter[Priority]:
        """Of those, the ones whose prompt is read."""
        return Counter(run.claim.priority for run in self._queue)

    def requests(self) -> Iterator[RequestState]:
        """Yield what each request does whose prompt is read: those that run, then the queue."""
        now_ns = clock.now_ns()
        for run in [*self._started.values(), *self._queue]:
            running = run.number in self._started
            yield RequestState(
                id=run.request.id,
                phase="queued" if not running else "decode" if run.first_token_ns else "prefill",
                priority=run.request.terms.priority.name.lower(),
                prompt_tokens=len(run.prompt),
                generated_tokens=len(run.produced),
                age_s=(now_ns - run.arrived_ns) / 1e9,
            )

    def limit(self, bounds: Bounds) -> None:
        """Refuse by other bounds from now on; who waits already stays."""
        self._admission.limit(bounds)

    # What the supervisor says.

    def attach(self, link: Outlet, ready: Ready) -> None:
        """A worker is ready for work, perhaps with another context or model than the last one.

        The same worker may say so again, having taken another context: it goes on with its runs.
        """
        replaced = self._served.vocabulary not in (0, ready.vocabulary)
        self._served = Served.of(self.name, ready)
        # Prompts that become vectors are computed in one step: the next ones are to be at hand.
        self._ahead = LOOK_AHEAD if ready.task == "generate" else self.concurrency
        self._admission.width.most = self.concurrency
        for run in list(self._queue):
            run.fit(ready.context)
            if how := run.unfit_for(ready, replaced=replaced):
                self._queue.remove(run)
                self._end(run, self._served.refusal(run.prompt, how, self.full_context))
        self._berth.attach(link, ready.load_ms)
        self._dispatch()

    def detach(self, death: Death = Death.CRASHED) -> None:
        """The worker is gone: resume its runs in the next one, in the order they came.

        The one that is now known to be what workers die of fails instead, and where there is one,
        the death says nothing against any other.
        """
        self._metrics.restarted(self.name, death.name.lower())
        self._berth.detach()
        lost = list(self._started.values())
        self._started.clear()
        computed = lost[: self.concurrency]  # what is ahead of that only waited in the worker
        found = culprit([run.record for run in computed], death)
        guilty = None if found is None else computed[found]
        if self._prompts.lost(Death.REPLACED if guilty else death) or guilty:
            death = Death.REPLACED
        for run in reversed(lost):
            if run is guilty:
                continue
            run.record.lost(death if run in computed else Death.REPLACED)
            run.interrupted = True
            self._queue.returned(run)
        if guilty is not None:
            self._quarantine.add(guilty.request, clock.now_ns())
            self._end(guilty, WorkerLost("the worker died again and again on this request"))
        # What the next worker will hold for that: else nobody has yet asked it.
        self.constrained = self._prompts.constrained or any(run.constraint for run in self._queue)

    def _preempt(self, run: ActiveRun) -> None:
        """Take a started run's sequence away; it waits as the next of its key to be resumed.

        The caller starts what it made room for. What the worker still says of the run goes to a
        number that nobody has any more, and is computed again.
        """
        del self._started[run.number]
        self._berth.send(run.number, Cancel())
        run.number = next(numbers)
        run.gave_way += 1
        run.interrupted = True
        self._queue.yielded(run, clock.now_ns())
        self._metrics.degraded(self.name, "preempted")

    def close(self, error: ApiError) -> None:
        """There will be no worker again: every request of this lane fails with `error`."""
        self._berth.turn_away(error)
        self._prompts.fail(error)
        for run in [*self._started.values(), *self._queue]:
            self._withdraw(run)
            self._end(run, error)

    def turn_away(self, error: ApiError | None) -> None:
        """While there is no worker, answer whoever asks with `error`; None: let them wait again."""
        self._berth.turn_away(error)

    # What the HTTP layer asks.

    async def submit(self, request: GenerateRequest) -> ActiveRun:
        """Return a queued run. Raises as `Front.submit` does."""
        arrived = clock.now_ns()
        claim = Claim.of(request.terms)
        self._quarantine.check(request, arrived)
        if self._berth.link is None:
            self._wake()  # also for one that cannot wait so long: the next one will not have to
        self._admission.read(claim, self._idle(), loading_ns=self._berth.loading_ns, now_ns=arrived)
        self._count(+1)
        try:
            read = await self._read(request, claim)
            self._berth.check()  # the tokens came, then perhaps an end, then this task's turn
            run = ActiveRun(
                model=self.name,
                fingerprint=f"fp_{self.identity[:5].hex()}",
                number=next(numbers),
                request=request,
                prompt=unpack_tokens(read.tokens),
                constraint=read.constraint,
                tool_syntax=read.tool_syntax,
                context=self.context,
                arrived_ns=arrived,
                claim=claim,
                on_close=self._cancel,
                standing=self._standing,
            )
            claim.prompt, claim.most = len(run.prompt), run.max_tokens
            claim.answer = self._admission.speed.expected(run.max_tokens)
            displaced = self._admission.offer(
                run,
                started=self._at_work(),
                idle=self._idle(),
                now_ns=clock.now_ns(),
                loading_ns=self._berth.loading_ns or 0.0,
            )
        except BaseException as error:  # a cancelled task, too, has left
            if isinstance(error, WorkerLost):  # of its prompt
                self._quarantine.add(request, clock.now_ns())
            self._count(-1)
            self._dispatch()  # perhaps it was the suspect that others waited for
            raise
        for refused in displaced:
            self._end(refused.item, refused.error)
        if claim.deadline_ns is not None:
            loop = asyncio.get_running_loop()
            run.timer = loop.call_at(claim.deadline_ns / 1e9, self._expire, run)
        self._dispatch()
        return run

    async def ask(self, question: Question, terms: Terms) -> Reading:
        """Return what the worker's text thread makes of a question. Raises as `Front.ask` does."""
        try:
            return await self._intake.ask(question, terms)
        finally:
            self._used_ns = clock.now_ns()

    async def _read(self, request: GenerateRequest, claim: Claim) -> Prepared:
        """Return the prompt's tokens, which can run, and more. Raises as `submit` does."""
        try:
            read = await self._intake.read(request, claim)
        finally:
            self._admission.was_read(claim)
        if claim.deadline_ns is not None and clock.now_ns() >= claim.deadline_ns:
            raise self.late("before it could wait")  # another's text, or choice, took all of it
        self._served.check_read(request, unpack_tokens(read.tokens), self.full_context)
        return read

    def _check_suits(self, request: GenerateRequest) -> None:
        """A worker is here: raise InvalidRequest for what its model cannot do."""
        self._served.check_asked(request)
        if request.constrained and not self.constrained:
            self.on_constrained()
            self.constrained = True
            self.on_wanted()

    def _standing(self, run: ActiveRun) -> Standing | None:
        """Return where a run waits; None for one that is being answered, or over."""
        if run.outcome:
            return None
        if run.number in self._started:
            return None if run.produced else Standing(0, None)
        loading_ns = self._berth.loading_ns or 0.0
        return self._admission.standing(run, self._at_work(), loading_ns)

    def _at_work(self) -> list[ActiveRun]:
        return list(self._started.values())

    def _idle(self) -> int:
        """Requests that would start at once."""
        return max(0, self.concurrency - len(self._started)) if self._berth.link else 0

    def _wake(self) -> None:
        if self.state == "unloaded":
            self._berth.load_begins()
            self.on_wanted()

    # What the worker says.

    def hear(self, number: int, message: Message) -> None:
        """Take a worker's message. Those for requests that ended meanwhile are dropped."""
        match message:
            case Tokens():
                if run := self._started.get(number):
                    was_suspect = run.record.suspect
                    if gap_ns := run.feed(message):
                        self._metrics.gap(self.name, gap_ns, len(message.ids))
                    if was_suspect and not run.record.suspect:  # the next one may be tried
                        self._dispatch()
            case Finished() | Embedded():
                if run := self._started.pop(number, None):
                    self._end(run, message)
                    self._dispatch()
            case Prepared() | Converted():
                self._prompts.answer(number, message)
            case Compiling():
                self._prompts.compiling(number)
            case Rejected():
                if self._prompts.answer(number, message):
                    return
                if run := self._started.pop(number, None):
                    how = self._served.refusal(run.prompt, refusal(message), self.full_context)
                    self._end(run, how)
                    self._dispatch()
            case _:
                raise Unexpected(f"a ready worker does not send {type(message).__name__}")

    def _dispatch(self) -> None:
        """Start what the worker can take now."""
        while self._berth.link is not None:
            now_ns = clock.now_ns()
            move = next_move(
                self._admission,
                self._at_work(),
                sequences=self.concurrency,
                ahead=self._ahead,
                suspect_prompt=self._prompts.suspect,
                now_ns=now_ns,
            )
            if move is None:
                return
            if move.late is not None:
                self._queue.remove(move.run)
                self._end(move.run, move.late)
                continue
            for other in move.gives_way:
                self._preempt(other)
            if move.starts:
                self._start(self._queue.pop(now_ns), now_ns, urgent=move.urgent)

    def _start(self, run: ActiveRun, now_ns: int, *, urgent: bool) -> None:
        run.urgent = urgent
        run.given_ns = now_ns
        run.record.begin()
        self._started[run.number] = run
        self._berth.send(run.number, run.start_message())

    def _cancel(self, run: ActiveRun) -> None:
        self._withdraw(run)
        deadline_ns, now_ns = run.claim.deadline_ns, clock.now_ns()
        if deadline_ns and deadline_ns - now_ns < _GIVEN_UP * (deadline_ns - run.arrived_ns):
            self._was_late(run, now_ns)
        self._end(run, None)
        self._dispatch()

    def _was_late(self, run: ActiveRun, now_ns: int) -> None:
        # One that was interrupted says nothing of how many are computed together.
        counts = run.given_ns and not run.interrupted
        if counts and self._admission.missed(run, len(run.produced), run.given_ns, now_ns):
            self._metrics.degraded(self.name, "narrowed")

    def _expire(self, run: ActiveRun) -> None:
        self._withdraw(run)
        self._was_late(run, clock.now_ns())
        done = f"with {len(run.produced)} tokens of its answer" if run.given_ns else "waiting"
        self._end(run, self.late(done))
        self._dispatch()

    def late(self, how_far: str) -> DeadlineExceeded:
        """Return what one is told whose time was over."""
        retry_after = self._admission.rate.retry_after(len(self._queue))
        return DeadlineExceeded(f"the time-out was over {how_far}", retry_after=retry_after)

    def _withdraw(self, run: ActiveRun) -> None:
        if self._started.pop(run.number, None) is None:
            self._queue.remove(run)
        else:
            self._berth.send(run.number, Cancel())

    def _end(self, run: ActiveRun, how: End) -> None:
        """The one way out of the lane."""
        self._ledger.close(run, how)
        self._count(-1)

    def _count(self, change: int) -> None:
        self._open += change
        self._used_ns = clock.now_ns()
        if self._open:
            self.idle.clear()
        else:
            self.idle.set()
            self._admission.rate.idle()
