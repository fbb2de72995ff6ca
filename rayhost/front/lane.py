"""A lane: everything in the front about one model - its queue, its runs, its worker's link.

Invariant: a run waits in `_queue` or is in `_started`, never both, and leaves with an outcome. The
lane outlives its workers: `attach` and `detach` may come any number of times, and what was started
in a lost worker goes back to the head of the queue to be resumed from its tokens.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Literal

import structlog

from rayhost import clock
from rayhost.errors import (
    ApiError,
    ContextLengthExceeded,
    DeadlineExceeded,
    QueueFull,
    Unavailable,
    WorkerLost,
)
from rayhost.front.admission import Admission, Bounds
from rayhost.front.blame import Death
from rayhost.front.capabilities import capabilities, check_input, check_task
from rayhost.front.fair import Claim
from rayhost.front.preemption import Held, victims
from rayhost.front.prompts import Outlet, Prompts, check, check_bias, numbers, refusal
from rayhost.front.request import (
    Capabilities,
    GenerateRequest,
    Priority,
    Question,
    Reading,
    Standing,
    Terms,
)
from rayhost.front.run import ActiveRun, summary
from rayhost.front.state import RequestState
from rayhost.ipc.messages import (
    Cancel,
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
LOOK_AHEAD = 2  # started beyond the worker's sequences, so that a freed one is filled at once
MAX_ASKING = 64  # questions at a time, each a body of at most the profile's size

_log = structlog.get_logger("rayhost.request")


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
        self.context = 0
        self.chat = False
        self.capabilities: Capabilities | None = None  # of the last worker
        self.identity = b""  # of all that answers depend on; empty before the first worker
        self.concurrency = concurrency
        self.on_wanted: Callable[[], None] = lambda: None  # somebody asks while it is unloaded
        self._vocabulary = 0
        self._ahead = LOOK_AHEAD
        self._metrics = metrics
        self._spent = spent
        self._link: Outlet | None = None
        self._settled = asyncio.Event()  # a worker is attached, or there will never be one
        self._closing: ApiError | None = None
        self._open = 0  # requests that came and have not ended
        self._asking = 0  # questions that are no requests: nothing of them is queued or run
        self._used_ns = clock.now_ns()
        self.idle = asyncio.Event()  # set while there are none
        self.idle.set()
        self._prompts = Prompts()
        self._admission = Admission[ActiveRun](bounds, concurrency)
        self._queue = self._admission.queue
        self._started: dict[int, ActiveRun] = {}

    @property
    def idle_ns(self) -> int:
        """For how long nobody has asked anything of the model; 0 while somebody does."""
        return 0 if self._open or self._asking else clock.now_ns() - self._used_ns

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
        replaced = self._vocabulary not in (0, ready.vocabulary)
        self._link = link
        self.context = ready.context
        self.chat = ready.chat
        self.capabilities = capabilities(ready)
        # Prompts that become vectors are computed in one step: the next ones are to be at hand.
        self._ahead = LOOK_AHEAD if ready.task == "generate" else self.concurrency
        self._vocabulary = ready.vocabulary
        self._admission.width.most = self.concurrency
        for run in list(self._queue):
            run.fit(ready.context)
            if how := _verdict(run, ready, replaced):
                self._queue.remove(run)
                self._end(run, how)
        self._settled.set()
        self._dispatch()

    def detach(self, death: Death = Death.CRASHED) -> None:
        """The worker is gone: resume its runs in the next one, in the order they came.

        The one that is now known to be what workers die of fails instead, and where there is one,
        the death says nothing against any other.
        """
        self._metrics.restarted(self.name, death.name.lower())
        self._link = None
        self._settled.clear()
        lost = list(self._started.values())
        self._started.clear()
        culprit = next((run for run in lost if run.record.convicted_by(death)), None)
        if self._prompts.lost(Death.REPLACED if culprit else death) or culprit:
            death = Death.REPLACED
        for run in reversed(lost):
            if run is culprit:
                continue
            run.record.lost(death)
            run.interrupted = True
            self._queue.returned(run)
        if culprit is not None:
            self._end(culprit, WorkerLost("the worker died again and again on this request"))

    def _preempt(self, run: ActiveRun) -> None:
        """Take a started run's sequence away; it waits as the next of its key to be resumed.

        The caller starts what it made room for. What the worker still says of the run goes to a
        number that nobody has any more, and is computed again.
        """
        del self._started[run.number]
        if self._link is not None:
            self._link.send(run.number, Cancel())
        run.number = next(numbers)
        run.gave_way += 1
        run.interrupted = True
        self._queue.yielded(run, clock.now_ns())
        self._metrics.degraded(self.name, "preempted")

    def close(self, error: ApiError) -> None:
        """There will be no worker again: every request of this lane fails with `error`."""
        self._closing = error
        self._settled.set()
        self._prompts.fail(error)
        for run in [*self._started.values(), *self._queue]:
            self._withdraw(run)
            self._end(run, error)

    def turn_away(self, error: ApiError | None) -> None:
        """While there is no worker, answer whoever asks with `error`; None: let them wait again."""
        self._closing = error
        if error is not None:
            self._settled.set()
        elif self._link is None:
            self._settled.clear()

    # What the HTTP layer asks.

    async def submit(self, request: GenerateRequest) -> ActiveRun:
        """Return a queued run. Raises as `Front.submit` does."""
        arrived = clock.now_ns()
        claim = _claim(request, arrived)
        self._admission.read(claim, self._idle())
        self._count(+1)
        try:
            read = await self._read(request, claim)
            if self._closing is not None:  # after the tokens came, before this task had its turn
                raise self._closing.with_traceback(None)
            run = ActiveRun(
                model=self.name,
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
                run, started=self._at_work(), idle=self._idle(), now_ns=clock.now_ns()
            )
        except BaseException:  # a cancelled task, too, has left
            self._count(-1)
            self._dispatch()  # perhaps it was the suspect that others waited for
            raise
        for refused in displaced:
            self._end(refused.item, refused.error)
        if claim.deadline_ns is not None:
            left_s = (claim.deadline_ns - clock.now_ns()) / 1e9
            run.timer = asyncio.get_running_loop().call_later(left_s, self._expire, run)
        self._dispatch()
        return run

    async def ask(self, question: Question, terms: Terms) -> Reading:
        """Return what the worker's text thread makes of a question. Raises as `Front.ask` does."""
        if self._asking >= MAX_ASKING:
            raise QueueFull(
                f"{MAX_ASKING} questions about text are being answered already", retry_after=1
            )
        limit_s = None if terms.timeout_ms is None else terms.timeout_ms / 1000
        self._asking += 1
        try:
            async with asyncio.timeout(limit_s):
                return await self._prompts.ask(question, self._worker)
        except TimeoutError:
            raise self._late("before the text was read") from None
        finally:
            self._asking -= 1
            self._used_ns = clock.now_ns()

    async def _read(self, request: GenerateRequest, claim: Claim) -> Prepared:
        """Return the prompt's tokens, which can run, and more. Raises as `submit` does."""
        left_ns = None if claim.deadline_ns is None else claim.deadline_ns - clock.now_ns()
        try:
            async with asyncio.timeout(None if left_ns is None else left_ns / 1e9):
                await self._worker()
                if self.capabilities is not None:
                    check_task(request, self.name, self.capabilities)
                read = await self._prompts.read(request.prompt, self._worker, request.constraint)
        except TimeoutError:
            raise self._late("before the prompt was read") from None
        finally:
            self._admission.was_read(claim)
        model, context, vocabulary = self.name, self.context, self._vocabulary
        prompt = unpack_tokens(read.tokens)
        if request.task == "generate":
            check(prompt, request.prompt, model=model, context=context, vocabulary=vocabulary)
            check_bias(request.sampling, model=model, vocabulary=vocabulary)
        else:
            check_input(prompt, model=model, context=context, vocabulary=vocabulary)
        return read

    def _standing(self, run: ActiveRun) -> Standing | None:
        """Return where a run waits; None for one that is being answered, or over."""
        if run.outcome:
            return None
        if run.number in self._started:
            return None if run.produced else Standing(0, None)
        return self._admission.standing(run, self._at_work())

    def _at_work(self) -> list[ActiveRun]:
        return list(self._started.values())

    def _idle(self) -> int:
        """Requests that would start at once."""
        return max(0, self.concurrency - len(self._started)) if self._link else 0

    async def _worker(self) -> Outlet:
        while True:
            if self.state == "unloaded":
                self.on_wanted()
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
            case Rejected():
                if self._prompts.answer(number, message):
                    return
                if run := self._started.pop(number, None):
                    self._end(run, refusal(message))
                    self._dispatch()
            case _:
                raise Unexpected(f"a ready worker does not send {type(message).__name__}")

    def _dispatch(self) -> None:
        """Start what the worker can take now.

        What cannot be answered in time any more is not started, and where a run of high priority
        has no sequence, a lower one gives way. Of the suspects of a worker's death one at a time,
        prompts that are to be read first: so the one that kills workers is found, and the others
        do not fall with it again.
        """
        while self._link is not None and self._queue:
            now_ns = clock.now_ns()
            run = self._queue.head(now_ns)
            if run.record.suspect and self._suspect_at_work():
                return
            late = None if run.produced else self._admission.late(run, self._at_work(), now_ns)
            if late is not None:
                self._queue.remove(run)
                self._end(run, late)
                continue
            for other in self._in_the_way_of(run, now_ns):
                self._preempt(other)
            if len(self._started) >= self.concurrency + self._ahead:
                return
            self._queue.pop(now_ns)
            run.urgent = self._urgent(run)
            self._started[run.number] = run
            run.record.begin()
            run.given_ns = now_ns
            self._link.send(run.number, run.start_message())

    def _urgent(self, run: ActiveRun) -> bool:
        """Tell whether the worker is to compute it before what it was given earlier.

        High priority, and a lower one whose turn has come before higher ones that wait.
        """
        priority = run.claim.priority
        return priority is Priority.HIGH or any(
            self._queue.size(n) for n in Priority if n < priority
        )

    def _in_the_way_of(self, run: ActiveRun, now_ns: int) -> list[ActiveRun]:
        priority = run.claim.priority
        if priority is not Priority.HIGH or len(self._started) < self.concurrency:
            return []
        started = [(one, _held(one)) for one in self._started.values()]
        return victims(priority, started, self.concurrency, now_ns)

    def _suspect_at_work(self) -> bool:
        return self._prompts.suspect or any(run.record.suspect for run in self._started.values())

    def _cancel(self, run: ActiveRun) -> None:
        self._withdraw(run)
        self._end(run, None)
        self._dispatch()

    def _expire(self, run: ActiveRun) -> None:
        self._withdraw(run)
        # One that was interrupted says nothing of how many are computed together.
        if run.given_ns and not run.interrupted:
            now_ns = clock.now_ns()
            if self._admission.missed(run, len(run.produced), run.given_ns, now_ns):
                self._metrics.degraded(self.name, "narrowed")
        done = f"with {len(run.produced)} tokens of its answer" if run.given_ns else "waiting"
        self._end(run, self._late(done))
        self._dispatch()

    def _late(self, how_far: str) -> DeadlineExceeded:
        retry_after = self._admission.rate.retry_after(len(self._queue))
        return DeadlineExceeded(f"the time-out was over {how_far}", retry_after=retry_after)

    def _withdraw(self, run: ActiveRun) -> None:
        if self._started.pop(run.number, None) is None:
            self._queue.remove(run)
        elif self._link is not None:
            self._link.send(run.number, Cancel())

    def _end(self, run: ActiveRun, how: Finished | Embedded | ApiError | None) -> None:
        """The one way out of the lane: the run gets its outcome, the operator a log line."""
        match how:
            case Finished():
                run.end(how)
                self._admission.in_time(run.claim)
                self._learn(run)
            case Embedded():
                run.embedded(how)
                self._admission.in_time(run.claim)
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

    def _learn(self, run: ActiveRun) -> None:
        self._admission.rate.ended(run.ended_ns)
        if run.started_ns and not run.gave_way:  # else the times hold a pause, or are not known
            self._admission.speed.learn(
                prompt=len(run.prompt),
                answer=len(run.produced),
                started_ns=run.started_ns,
                first_ns=run.first_token_ns,
                ended_ns=run.ended_ns,
            )

    def _count(self, change: int) -> None:
        self._open += change
        self._used_ns = clock.now_ns()
        if self._open:
            self.idle.clear()
        else:
            self.idle.set()
            self._admission.rate.idle()


def _claim(request: GenerateRequest, arrived_ns: int) -> Claim:
    terms = request.terms
    return Claim(
        key=terms.key,
        weight=terms.weight,
        priority=terms.priority,
        prompt=0,  # not known before it is read
        answer=0,
        most=0,
        deadline_ns=None if terms.timeout_ms is None else arrived_ns + terms.timeout_ms * 1_000_000,
    )


def _held(run: ActiveRun) -> Held:
    return Held(
        priority=run.claim.priority,
        since_ns=run.given_ns,
        left=run.max_tokens - len(run.produced),
        tokens=len(run.prompt) + len(run.produced),
        times=run.gave_way,
    )


def _verdict(run: ActiveRun, ready: Ready, replaced: bool) -> ApiError | None:
    """Return why this worker cannot carry a run on; None where it can."""
    if replaced or ready.task != run.request.task:
        return Unavailable("the model was replaced", code="model_replaced", retry_after=1)
    if run.produced or run.max_tokens >= (run.request.task == "generate"):
        return None
    return ContextLengthExceeded(
        f"The model's context was made smaller meanwhile: it has {ready.context} tokens now, and "
        f"your prompt {len(run.prompt)}."
    )
