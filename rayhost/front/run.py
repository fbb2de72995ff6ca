"""A run: one admitted request from its place in the queue to its last token.

Invariant: prompt + `produced` + `request` are enough to carry the run on in any worker of the same
model. A run belongs to exactly one lane, which alone calls the methods that change it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

from rayhost import clock
from rayhost.errors import ApiError
from rayhost.front.blame import Record
from rayhost.front.fair import Claim
from rayhost.front.request import CacheOutcome, Finish, GenerateRequest, Standing, Times
from rayhost.ipc.messages import Finished, Start, Tokens, pack_tokens


class ActiveRun:
    """The `Run` that the HTTP layer iterates. Times are CLOCK_MONOTONIC nanoseconds."""

    cache: CacheOutcome = "bypass"  # a run that is shared is iterated through `front.flight`

    def __init__(
        self,
        *,
        model: str,
        number: int,
        request: GenerateRequest,
        prompt: list[int],
        context: int,
        arrived_ns: int,
        claim: Claim,
        on_close: Callable[["ActiveRun"], None],
        standing: Callable[["ActiveRun"], Standing | None],
    ) -> None:
        self.model = model
        self.number = number  # what frames call it; unique in this front; new after a preemption
        self.request = request
        self.prompt = prompt
        self.produced: list[int] = []
        self.reused = 0  # tokens of the prompt that were not computed for it
        self.max_tokens = 0  # as far as the context lets it
        self.fit(context)
        self.arrived_ns = arrived_ns
        self.claim = claim  # on a sequence
        self.given_ns = 0  # when a worker was given it, the last time
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
        self._changed = asyncio.Event()
        self._finish: Finish | None = None
        self._failure: ApiError | None = None

    @property
    def outgrown(self) -> bool:
        """True when the run has all that a context of `max_tokens` after its prompt can hold."""
        return self.max_tokens < 1 or len(self.produced) > self.max_tokens

    def fit(self, context: int) -> None:
        """Take the bounds of the worker that carries the run on; `context` is in tokens."""
        room, asked = context - len(self.prompt), self.request.max_tokens
        self.max_tokens = room if asked is None else min(room, asked)

    def start_message(self) -> Start:
        """Return what starts or resumes the run in a worker."""
        return Start(
            tokens=pack_tokens(self.prompt + self.produced),
            n_prompt=len(self.prompt),
            max_tokens=self.max_tokens,
            sampling=self.request.sampling,
            stop=self.request.stop,
        )

    def feed(self, news: Tokens) -> int:
        """Take in what a step added; return how long the client waited for it since the last one.

        0 for the first, and for text without a new token.
        """
        now_ns = clock.now_ns()
        gap_ns = now_ns - self._last_token_ns if self._last_token_ns and news.ids else 0
        if news.ids:
            self._last_token_ns = now_ns
        self.record.got(len(news.ids))
        self.first_token_ns = self.first_token_ns or now_ns
        self.produced += news.ids
        if news.text:
            self._text.append(news.text)
            self._changed.set()
        return gap_ns

    def end(self, finished: Finished) -> None:
        """The worker says that this was all."""
        if self.first_token_ns >= finished.started_ns:  # else the first step was in a lost worker
            self.started_ns = finished.started_ns
        self.reused = finished.n_reused
        self._finish = Finish(finished.reason, len(self.prompt), len(self.produced), self.reused)
        self._close(finished.reason)

    def end_outgrown(self) -> None:
        """The context became smaller than what the run has: that is all."""
        self._finish = Finish("length", len(self.prompt), len(self.produced))
        self._close("length")

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

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yield text as it becomes final; several steps at once for a slow reader."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._text:
                text = "".join(self._text)
                self._text.clear()
                yield text
            if self.outcome and not self._text:
                if self._failure is not None:
                    raise self._failure
                return


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
