"""A keeper keeps one model's worker alive: spawn, load, watch, replace.

Invariant: at most one worker process per keeper. The lane's `state` and `reason` always say what
the keeper is doing: starting → loading → ready → (died, hung) restarting → loading ..., unloaded
until it is woken, or failed when it never was ready and trying again cannot help. Settings that
cannot be loaded give way to the last that could.
"""

import asyncio
import itertools
import random
from collections.abc import Callable

import msgspec
import structlog

from rayhost import clock
from rayhost.errors import ModelFailed, RayhostError, Unavailable
from rayhost.front.blame import Death
from rayhost.front.lane import Lane, State
from rayhost.front.link import Link
from rayhost.front.request import WorkerHealth
from rayhost.ipc.channel import create
from rayhost.ipc.messages import Load, LoadFailed, Message, Ready
from rayhost.metrics import WorkerReading
from rayhost.supervisor import backoff, incarnation
from rayhost.supervisor.identity import Origin
from rayhost.supervisor.incarnation import Incarnation, only_sizes_differ
from rayhost.supervisor.process import Process
from rayhost.supervisor.pulse import TICK_NS, Pulse

_generations = itertools.count(1)
_log = structlog.get_logger("rayhost.supervisor")


class Keeper:
    """Supervises the worker of one lane. Lives in the event loop's thread."""

    def __init__(
        self,
        lane: Lane,
        load: Load | RayhostError,
        on_loaded: Callable[[], None] = lambda: None,
    ) -> None:
        """`load` is what the worker loads, or why this model can never be loaded.

        `on_loaded` is called whenever a worker has become ready.
        """
        self._lane = lane
        self._load = load
        self._on_loaded = on_loaded
        self._worker: Incarnation | None = None
        self._failures = 0  # workers lost in a row
        self._restart: asyncio.TimerHandle | None = None
        self._next_look: asyncio.TimerHandle | None = None
        self._stopping = False
        self._resting = False  # unloaded, or about to be
        self._replacing = asyncio.Lock()
        self._before: Load | None = None  # while those of `_load` were never ready yet
        self._proven: Load | None = None  # the last that a new worker became ready with
        self._trial: asyncio.Future[None] | None = None  # what `replace` waits for
        self.settled = asyncio.Event()  # ready for the first time, or failed

    def start(self) -> None:
        """Spawn the worker."""
        self._restart = None
        if isinstance(self._load, RayhostError):
            self._fail(str(self._load))
            return
        origin = Origin(self._load)
        try:
            end, child = create(next(_generations))
            try:
                process = Process(self._lane.name, child, self._died)
            except OSError:
                end.close()
                raise
        except OSError as error:  # no memory, no descriptors, no room for a process
            self._retry(f"cannot start a worker process: {error}")
            return
        link = Link(end, self._hear, self._condemn)
        pulse = Pulse(clock.now_ns(), self._load.batch)
        self._worker = Incarnation(process, link, end, origin, pulse)
        self._lane.concurrency = self._load.concurrency
        # A host that starts has its preloads when it is ready; of a later one requests wait for it.
        link.send(0, msgspec.structs.replace(self._load, preload_first=not self.settled.is_set()))
        self._look_later()
        again = f" again: {self._lane.reason}" if self._failures else ""
        self._set("loading", f"the model is loading{again}")

    def _fail(self, reason: str) -> None:
        """Give the model up: every request for it is answered with `reason`."""
        self._set("failed", reason)
        self._lane.close(ModelFailed(f"model {self._lane.name!r} failed to load: {reason}"))
        _log.error("model failed", model=self._lane.name, reason=reason)
        self.settled.set()

    async def replace(self, load: Load) -> None:
        """Go on with other settings or another file; running requests notice only a pause.

        Where only sizes or the KV type change, the same worker takes another context: that is a
        tenth of a second. Returns when a worker is ready with them. Raises RayhostError when there
        can be none: the settings from before then hold, or are being loaded again.
        """
        async with self._replacing:
            await self._take(load)

    async def resize(self, change: Callable[[Load], Load]) -> None:
        """As `replace`, with what `change` makes of the settings that hold by then."""
        async with self._replacing:
            if isinstance(self._load, Load) and (load := change(self._load)) != self._load:
                await self._take(load)

    async def unload(self) -> None:
        """End the worker until `wake`; return when it is gone. Only one that is ready."""
        async with self._replacing:
            if self._worker is None or self._lane.state != "ready":
                return
            _log.info("model unloaded", model=self._lane.name)
            self._resting = True
            await self._worker.retire()

    def wake(self, change: Callable[[Load], Load]) -> None:
        """Start a worker again after `unload`, with what `change` makes of its settings."""
        if self._lane.state == "unloaded" and isinstance(self._load, Load):
            self._load = change(self._load)
            self._resting = False
            self.start()

    async def _take(self, load: Load) -> None:
        lane = self._lane
        if self._stopping or isinstance(self._load, RayhostError) or lane.state == "failed":
            raise RayhostError(f"model {lane.name!r} is {lane.state}: it has no worker")
        self._trial = asyncio.get_running_loop().create_future()
        worker = self._worker
        try:
            if worker and worker.ready_ns and only_sizes_differ(self._load, load):
                worker.resize(load)
                await self._trial
                _log.info("worker resized", model=lane.name)
                return
            _log.info("worker replaced", model=lane.name)
            self._before, self._load = self._before or self._load, load
            if self._worker is not None:
                await self._worker.retire()
            elif self._restart is not None:
                self._restart.cancel()
                self.start()
            elif self._resting:
                self._resting = False
                self.start()
            await self._trial
        finally:
            self._trial = None

    async def reload(self) -> None:
        """Replace the worker by one with the same settings; else as `replace`."""
        async with self._replacing:
            if isinstance(self._load, RayhostError):
                raise RayhostError(str(self._load))
            await self._take(self._load)

    async def stop(self) -> None:
        """End the worker, politely for a moment, and start no other."""
        self._stopping = True
        if self._restart is not None:
            self._restart.cancel()
        if self._worker is not None:
            await self._worker.retire()
        self._end_trial(RayhostError("the server is going down"))
        if self._lane.state != "failed":
            self._set("stopped", "the server is going down")
        self._lane.close(Unavailable("the server is going down", code="draining", retry_after=5))

    def kill(self) -> None:
        """End the worker now, whatever it does."""
        self._stopping = True
        if self._worker is not None:
            self._worker.process.kill()

    @property
    def load(self) -> Load | RayhostError:
        """What its worker loads, or why there is none."""
        return self._load

    @property
    def pid(self) -> int | None:
        """Its worker's process, if there is one."""
        return self._worker.process.pid if self._worker else None

    @property
    def dying(self) -> bool:
        """Whether a worker was told to end and is still there."""
        return self._worker is not None and self._worker.death is not None

    def health(self) -> WorkerHealth:
        """Read the worker's pulse from its status page."""
        return incarnation.health(self._lane, self._worker, first=self._failures == 0)

    def reading(self) -> WorkerReading:
        """Return the figures of a metrics scrape."""
        return incarnation.reading(self._lane, self._worker)

    def _hear(self, number: int, message: Message) -> None:
        worker = self._worker
        if worker is None:
            return
        match message:
            case Ready() if worker.death is not None:
                pass  # said before it heard that it was to end: others are to be ready
            case Ready():
                if resized := worker.resizing:
                    self._resized(worker, resized)
                else:
                    worker.ready_ns = clock.now_ns()
                    self._proven = worker.origin.load
                self._set("ready", "")
                self._lane.identity = worker.origin.identity(message)
                self._lane.attach(worker.link, message)
                self.settled.set()
                self._before = None
                self._end_trial(None)
                _log.info(
                    "model ready",
                    model=self._lane.name,
                    pid=worker.process.pid,
                    load_ms=round(message.load_ms, 1),
                    context=message.context,
                    quantization=message.quantization,
                )
                if not resized:
                    self._on_loaded()
            case LoadFailed() if worker.resizing is not None:
                worker.resizing = None
                self._end_trial(RayhostError(f"the new sizes cannot be had: {message.reason}"))
            case LoadFailed():
                worker.load_error = message.reason
            case _:
                self._lane.hear(number, message)

    def _resized(self, worker: Incarnation, load: Load) -> None:
        """The worker has taken another context."""
        worker.resizing = None
        worker.origin = worker.origin.resized(load)
        worker.pulse.resized(load.batch)
        self._load = load
        self._lane.concurrency = load.concurrency

    def _condemn(self, reason: str) -> None:
        """The worker sent nonsense: nothing of it can be trusted any more."""
        _log.error("worker condemned", model=self._lane.name, reason=reason)
        self._give_up(reason, Death.CRASHED)

    def _look_later(self) -> None:
        later = asyncio.get_running_loop().call_later(TICK_NS / 1e9, self._look)
        self._next_look = later

    def _look(self) -> None:
        worker = self._worker
        if worker is None or worker.death is not None:
            return
        self._look_later()
        if reason := worker.hung():
            _log.error("worker hung", model=self._lane.name, pid=worker.process.pid, reason=reason)
            self._give_up(f"the worker hung: {reason}", Death.HUNG)

    def _give_up(self, reason: str, death: Death) -> None:
        if self._worker is not None:
            self._set("restarting", reason)
            self._worker.give_up(reason, death)

    def _died(self, code: int) -> None:
        worker = self._worker
        if worker is None:
            return
        worker.close()
        self._worker = None
        if self._next_look is not None:
            self._next_look.cancel()
        death, reason = worker.cause(code)
        if worker.resizing is not None:
            self._end_trial(RayhostError(f"the worker died while it was resized: {reason}"))
            self._lane.detach(Death.REPLACED)  # of the new sizes, not of a request
        else:
            self._lane.detach(death)
        if self._stopping:
            return  # `stop` says the rest
        if self._resting:
            self._set("unloaded", "it was idle, and its memory is needed for others")
        elif death is Death.REPLACED:
            self.start()
        elif self._before is not None and not worker.ready_ns:
            before, self._before = self._before, None
            self._end_trial(RayhostError(f"the new settings do not load: {reason}"))
            self._back_to(before, reason)
        elif worker.load_error and self._proven and self._proven != self._load:
            # A worker that runs could take these sizes; one that begins with them cannot.
            self._back_to(self._proven, reason)
        elif worker.load_error and self._proven is None:
            self._fail(worker.load_error)
        else:  # what could be loaded once can be again: a load error, too, may pass
            self._retry(reason, worker.served_s)

    def _back_to(self, load: Load, reason: str) -> None:
        self._load = load
        _log.error("back to the settings before", model=self._lane.name, reason=reason)
        self.start()

    def _end_trial(self, error: RayhostError | None) -> None:
        if self._trial is None or self._trial.done():
            return
        if error is None:
            self._trial.set_result(None)
        else:
            self._trial.set_exception(error)

    def _retry(self, reason: str, served_s: float = 0.0) -> None:
        self._failures = backoff.after(self._failures, served_s)
        # A model that was ready once can be loaded: then it is the machine, and that may pass.
        if self._failures >= backoff.LOAD_ATTEMPTS and not self.settled.is_set():
            self._fail(f"{reason}, {self._failures} times in a row")
            return
        wait_s = backoff.delay(self._failures, random.random())
        self._set("restarting", reason)
        _log.error("worker lost", model=self._lane.name, reason=reason, restart_s=round(wait_s, 2))
        self._restart = asyncio.get_running_loop().call_later(wait_s, self.start)

    def _set(self, state: State, reason: str) -> None:
        self._lane.state = state
        self._lane.reason = reason
