"""A run: one admitted request from its place in the queue to its last token.

Invariant: prompt + `produced` + `request` are enough to carry the run on in any worker of the same
model. A run belongs to exactly one lane, which alone calls the methods that change it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

from rayhost import clock
from rayhost.errors import ApiError, ContextLengthExceeded, Unavailable
from rayhost.front.blame import Record
from rayhost.front.fair import Claim
from rayhost.front.request import CacheOutcome, Finish, GenerateRequest, Piece, Standing, Times
from rayhost.ipc.messages import (
    Constraint,
    Embedded,
    Finished,
    Ready,
    Start,
    TokenLogprob,
    Tokens,
    pack_tokens,
)

UNBOUNDED = 256  # tokens that one gets at least who set no bound, as where `max_tokens` is in force


class ActiveRun:
    """The `Run` that the HTTP layer iterates. Times are CLOCK_MONOTONIC nanoseconds."""

    cache: CacheOutcome = "bypass"  # a run that is shared is iterated through `front.flight`

    def __init__(
        self,
        *,
        model: str,
        fingerprint: str = "",
        number: int,
        request: GenerateRequest,
        prompt: list[int],
        constraint: Constraint | None = None,
        tool_syntax: str = "",
        context: int,
        arrived_ns: int,
        claim: Claim,
        on_close: Callable[["ActiveRun"], None],
        standing: Callable[["ActiveRun"], Standing | None],
    ) -> None:
        self.model = model
        self.fingerprint = fingerprint
        self.number = number  # what frames call it; unique in this front; new after a preemption
        self.request = request
        self.prompt = prompt
        self.constraint = constraint  # what its text is held to
        self.tool_syntax = tool_syntax  # how the answer writes calls of tools; empty: it has none
        self.produced: list[int] = []
        self._mu: float | None = None  # mirostat's state after the last of `produced`
        self.reused = 0  # tokens of the prompt that were not computed for it, when it was begun
        self._begun = False  # the first step is told: what a later worker has of it is its own
        self.max_tokens = 0  # as far as the context lets it
        self.outgrown = False  # it has all that a context can hold which became smaller meanwhile
        self.fit(context)
        self.arrived_ns = arrived_ns
        self.claim = claim  # on a sequence
        self.given_ns = 0  # when a worker was given it, the last time
        self.urgent = False  # computed before what the worker was given earlier
        self.interrupted = False  # its computation was, once or more
        self.gave_way = 0  # times that its sequence was taken for a higher priority
        self.timer: asyncio.TimerHandle | None = None  # of its deadline
        self.started_ns = 0  # first step that computed any of it
        self.first_token_ns = 0
        self._last_token_ns = 0
        self.ended_ns = 0
        self.record = Record()  # what deaths of workers say against it
        self.outcome = ""  # stop, length, cancelled, or an error's code; empty while it runs
        self._on_close = on_close
        self._standing = standing
        self._text: list[str] = []
        self._logprobs: list[TokenLogprob] = []  # of `produced`, but for those that were yielded
        self._settled = 0  # tokens whose text has begun
        self._yielded = 0  # of those, the ones that the client has been told of
        self._changed = asyncio.Event()
        self._finish: Finish | None = None
        self._failure: ApiError | None = None

    def fit(self, context: int) -> None:
        """Take the bounds of the worker that carries the run on; `context` is in tokens."""
        before, room, asked = self.max_tokens, context - len(self.prompt), self.request.max_tokens
        self.max_tokens = room if asked is None else min(room, asked)
        # One that was full before has had its last text; this one's is held back in the worker.
        cut = len(self.produced) < before and self.max_tokens < before
        self.outgrown = (cut or self.outgrown) and 0 < len(self.produced) >= self.max_tokens

    @property
    def least_context(self) -> int:
        """What a context must hold for this run to be answered as it was accepted, in tokens.

        Whoever set no bound gets one where memory is short.
        """
        if self.request.task != "generate":
            return len(self.prompt)
        bounded = self.request.max_tokens is not None
        most = self.max_tokens if bounded else min(self.max_tokens, UNBOUNDED)
        return len(self.prompt) + max(most, len(self.produced) + 1)

    def unfit_for(self, ready: Ready, *, replaced: bool) -> ApiError | None:
        """Return why a worker cannot carry the run on, which has been fitted to it; None: it can.

        `replaced`: its tokens are not those of the worker before.
        """
        generates = self.request.task == "generate"
        if replaced or ready.task != self.request.task:
            return Unavailable("the model was replaced", code="model_replaced", retry_after=1)
        if self.produced or self.max_tokens >= generates:
            return None
        return ContextLengthExceeded(
            f"The model's context was made smaller meanwhile: it has {ready.context} tokens now, "
            f"and your prompt {len(self.prompt)}."
        )

    def start_message(self) -> Start:
        """Return what starts or resumes the run in a worker."""
        return Start(
            tokens=pack_tokens(self.prompt + self.produced),
            n_prompt=len(self.prompt),
            max_tokens=self.max_tokens,
            sampling=self.request.sampling,
            stop=self.request.stop,
            constraint=self.constraint,
            logprobs=-1 if self.request.logprobs is None else self.request.logprobs,
            mu=self._mu,
            outgrown=self.outgrown,
            begun=self._begun,
            embed=self.request.task != "generate",
            priority=0 if self.urgent else 1,
        )

    def feed(self, news: Tokens) -> int:
        """Take in what a step added; return how long the client waited for it since the last one.

        0 for the first, and for text without a new token.
        """
        if news.n_reused is not None:  # which is all that it tells
            if not self._begun:
                self._begun, self.reused = True, news.n_reused
            return 0
        now_ns = clock.now_ns()
        gap_ns = now_ns - self._last_token_ns if self._last_token_ns and news.ids else 0
        if news.ids:
            self._last_token_ns = now_ns
        self.record.got(len(news.ids))
        self.first_token_ns = self.first_token_ns or now_ns
        self.produced += news.ids
        if news.mu is not None:
            self._mu = news.mu
        self._logprobs += news.logprobs
        self._settled = max(self._settled, news.settled)
        if news.text:
            self._text.append(news.text)
            self._changed.set()
        elif self._settled > self._yielded:
            self._changed.set()
        return gap_ns

    def end(self, finished: Finished) -> None:
        """The worker says that this was all."""
        if self.first_token_ns >= finished.started_ns:  # else the first step was in a lost worker
            self.started_ns = finished.started_ns
        self._finish = Finish(
            finished.reason,
            len(self.prompt),
            len(self.produced),
            self.reused,
            stop_sequence=finished.stop_sequence,
        )
        self._close(finished.reason)

    def embedded(self, told: Embedded) -> None:
        """The worker has the prompt's vector, which is all that was asked for."""
        self.first_token_ns, self.started_ns = clock.now_ns(), told.started_ns
        self._finish = Finish("stop", len(self.prompt), 0, vector=told.vector)
        self._close("stop")

    def fail(self, error: ApiError) -> None:
        """Nobody will carry this run on."""
        self._failure = error
        self._close(error.code)

    def cancel(self) -> None:
        """Nobody waits for this run any more."""
        self._close("cancelled")

    def _close(self, outcome: str) -> None:
        self.ended_ns = clock.now_ns()
        self.outcome = outcome
        self._changed.set()

    @property
    def finish(self) -> Finish:
        """How it ended; only after the iteration ended normally."""
        if self._finish is None:
            raise RuntimeError(f"run {self.request.id} has not finished: {self.outcome or 'runs'}")
        return self._finish

    @property
    def prompt_tokens(self) -> int:
        """How long the prompt is."""
        return len(self.prompt)

    @property
    def times(self) -> Times:
        """How far it came, and when."""
        return Times(self.arrived_ns, self.started_ns, self.first_token_ns)

    def standing(self) -> Standing | None:
        """Return where it waits; None once it is being answered."""
        return self._standing(self)

    def close(self) -> None:
        """Stop caring: frees the sequence within one engine step. Harmless after the end."""
        if not self.outcome:
            self._on_close(self)

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """Yield what became final; several steps at once for a slow reader."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._news:
                yield self._take()
            if self.outcome and not self._news:
                if self._failure is not None:
                    raise self._failure
                return

    @property
    def _news(self) -> bool:
        return bool(self._text) or self._settled > self._yielded

    def _take(self) -> Piece:
        text = "".join(self._text)
        self._text.clear()
        new = self._settled - self._yielded
        self._yielded = self._settled
        logprobs = tuple(self._logprobs[:new])
        del self._logprobs[:new]
        return Piece(text, logprobs)


def summary(run: ActiveRun) -> dict[str, object]:
    """Return the fields of a run's log line; times in milliseconds, None where not known."""
    # A run that was cut short after its first token never heard when its first step was.
    queued_until_ns = run.started_ns or (0 if run.first_token_ns else run.ended_ns)

    def between(start_ns: int, end_ns: int) -> float | None:
        return round((end_ns - start_ns) / 1e6, 1) if start_ns and end_ns else None

    return {
        "request_id": run.request.id,
        "model": run.model,
        "outcome": run.outcome,
        "priority": run.claim.priority.name.lower(),
        "key": run.claim.key,
        "prompt_tokens": len(run.prompt),
        "reused_tokens": run.reused,
        "completion_tokens": len(run.produced),
        "queue_ms": between(run.arrived_ns, queued_until_ns),
        "prefill_ms": between(run.started_ns, run.first_token_ns),
        "decode_ms": between(run.first_token_ns, run.ended_ns),
    }
