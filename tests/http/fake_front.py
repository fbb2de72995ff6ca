"""A `Front` that does what a test scripted, and tells what was done to it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Literal

from rayhost.errors import ModelNotFound
from rayhost.front.request import (
    CacheOutcome,
    Finish,
    GenerateRequest,
    ModelCard,
    Piece,
    Question,
    Reading,
    Recalled,
    Run,
    Standing,
    Terms,
    Times,
    WorkerHealth,
)
from rayhost.ipc.messages import Converted


class Flag:
    """An event that can be awaited in the app's loop and waited for in another thread."""

    def __init__(self) -> None:
        self._inside = asyncio.Event()
        self._outside = threading.Event()

    def set(self) -> None:
        self._inside.set()
        self._outside.set()

    def __bool__(self) -> bool:
        return self._outside.is_set()

    async def seen(self) -> None:
        await self._inside.wait()

    def wait(self) -> bool:
        """Wait in another thread; False after 10 s."""
        return self._outside.wait(10)


PAUSE = Piece("")  # of a script: the stream says nothing until it has shown life by itself


class FakeRun:
    """Yields `pieces`, then fails with `error`, hangs (`hold`), or ends with `ending`."""

    def __init__(
        self, pieces: Sequence[str | Piece], ending: Finish, error: Exception | None, hold: bool
    ) -> None:
        self.model = "smollm2-135m"
        self.fingerprint = "fp_0123456789"
        self.cache: CacheOutcome = "miss"
        self.tool_syntax = ""
        self.pulled = 0
        self.close_error: Exception | None = None
        self.held = Flag()
        self.closed = Flag()
        self.places: list[Standing | None] = []
        self.came = Times(0, 0, 0)
        self._asked = asyncio.Event()  # where it stands
        self._pieces = pieces
        self._ending = ending
        self._error = error
        self._hold = hold
        self._ended = False

    async def __aiter__(self) -> AsyncIterator[Piece]:
        for piece in self._pieces:
            self.pulled += 1
            if piece is PAUSE:
                self._asked.clear()
                await self._asked.wait()
                continue
            yield piece if isinstance(piece, Piece) else Piece(piece)
        if self._error is not None:
            raise self._error
        if self._hold:
            self.held.set()
            await asyncio.get_running_loop().create_future()
        self._ended = True

    @property
    def finish(self) -> Finish:
        if not self._ended:
            raise RuntimeError("finish was read before the end")
        return self._ending

    @property
    def prompt_tokens(self) -> int:
        return self._ending.prompt_tokens

    @property
    def times(self) -> Times:
        return self.came

    def standing(self) -> Standing | None:
        self._asked.set()
        return self.places.pop(0) if self.places else None

    def close(self) -> None:
        self.closed.set()
        if self.close_error is not None:
            raise self.close_error


def card(
    name: str,
    *aliases: str,
    state: Literal["loading", "ready", "failed", "unloaded"] = "ready",
    reason: str = "",
) -> ModelCard:
    return ModelCard(name, aliases, state, reason, created=1_700_000_000, context=2048)


def worker(model: str, *, ok: bool = True, reason: str = "") -> WorkerHealth:
    return WorkerHealth(model, ok, "ready" if ok else "restarting", reason, 4711, 12, 1.5)


class FakeFront:
    """Serves `smollm2-135m`, alias `small`. Set the attributes to script what comes next."""

    def __init__(self) -> None:
        self.models = [card("smollm2-135m", "small", "org/smol")]
        self.workers = [worker("smollm2-135m")]
        self.is_draining = False
        self.pieces: Sequence[str | Piece] = ("Paris", " is", " nice")
        self.scripts: list[Sequence[str | Piece]] = []  # of the first runs, instead of `pieces`
        self.places: Sequence[Standing | None] = ()  # of each run, one after the other
        self.ending = Finish("stop", 7, 3, reused_tokens=5)
        self.cache: CacheOutcome = "miss"
        self.tool_syntax = ""
        self.recalled: Recalled | None = None
        self.submit_error: Exception | None = None
        self.refusals: list[Exception] = []  # of the first requests, one each
        self.run_error: Exception | None = None
        self.close_error: Exception | None = None
        self.hold_submit = False
        self.hold_run = False
        self.submitting = Flag()
        self.submit_cancelled = Flag()
        self.started = Flag()
        self.requests: list[GenerateRequest] = []
        self.questions: list[tuple[str, Question, Terms]] = []
        self.reading: Reading = Converted()
        self.runs: list[FakeRun] = []

    @property
    def request(self) -> GenerateRequest:
        """The only request."""
        (request,) = self.requests
        return request

    @property
    def run(self) -> FakeRun:
        """The only run."""
        (run,) = self.runs
        return run

    def cards(self) -> Sequence[ModelCard]:
        return self.models

    def health(self) -> Sequence[WorkerHealth]:
        return self.workers

    def draining(self) -> bool:
        return self.is_draining

    def recall(self, request: GenerateRequest) -> Recalled | None:
        if self.recalled is not None:
            self.requests.append(request)
        return self.recalled

    async def ask(self, model: str, question: Question, terms: Terms) -> Reading:
        self.questions.append((model, question, terms))
        if self.submit_error is not None:
            raise self.submit_error
        return self.reading

    async def submit(self, request: GenerateRequest) -> Run:
        self.requests.append(request)
        self.submitting.set()
        if self.refusals:
            raise self.refusals.pop(0)
        if self.submit_error is not None:
            raise self.submit_error
        if not any(request.model in (one.name, *one.aliases) for one in self.models):
            raise ModelNotFound(f"no model {request.model!r}", param="model")
        if self.hold_submit:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                self.submit_cancelled.set()
                raise
        pieces = self.scripts.pop(0) if self.scripts else self.pieces
        run = FakeRun(pieces, self.ending, self.run_error, self.hold_run)
        run.close_error = self.close_error
        run.cache = self.cache
        run.places = list(self.places)
        run.tool_syntax = self.tool_syntax
        self.runs.append(run)
        self.started.set()
        return run
