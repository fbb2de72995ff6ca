"""A keeper keeps one model's worker alive: spawn, load, watch, replace.

Invariant: at most one worker process per keeper. The lane's `state` and `reason` always say what
the keeper is doing: starting → loading → ready → (died) restarting → loading ..., or failed when
trying again cannot help.
"""

import asyncio
import itertools
import random
from dataclasses import dataclass

import structlog

from rayhost import clock
from rayhost.errors import RayhostError, Unavailable
from rayhost.front.lane import Lane, State
from rayhost.front.link import Link
from rayhost.front.request import WorkerHealth
from rayhost.ipc.channel import End, create
from rayhost.ipc.messages import Load, LoadFailed, Message, Ready, Stop
from rayhost.ipc.status import Word
from rayhost.metrics import WorkerReading
from rayhost.supervisor import backoff
from rayhost.supervisor.identity import Origin
from rayhost.supervisor.process import Process, describe_exit

HANG_NS = 30_000_000_000  # a step of the largest batch on the slowest box is shorter
STOP_S = 2.0  # between asking a worker to stop and killing it

_generations = itertools.count(1)
_log = structlog.get_logger("rayhost.supervisor")


@dataclass(slots=True)
class _Worker:
    """One incarnation."""

    process: Process
    link: Link
    end: End
    origin: Origin
    ready_ns: int = 0
    load_error: str = ""


class Keeper:
    """Supervises the worker of one lane. Lives in the event loop's thread."""

    def __init__(self, lane: Lane, load: Load | RayhostError, hang_ns: int = HANG_NS) -> None:
        """`load` is what the worker loads, or why this model can never be loaded."""
        self._lane = lane
        self._load = load
        self._hang_ns = hang_ns
        self._worker: _Worker | None = None
        self._failures = 0  # workers lost in a row
        self._restart: asyncio.TimerHandle | None = None
        self._stopping = False
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
        self._worker = _Worker(process, link, end, origin)
        link.send(0, self._load)
        again = f" again: {self._lane.reason}" if self._failures else ""
        self._set("loading", f"the model is loading{again}")

    def _fail(self, reason: str) -> None:
        """Give the model up: every request for it is answered with `reason`."""
        self._set("failed", reason)
        self._lane.close(
            Unavailable(f"model {self._lane.name!r} failed to load: {reason}", code="model_failed")
        )
        _log.error("model failed", model=self._lane.name, reason=reason)
        self.settled.set()

    async def stop(self) -> None:
        """End the worker, politely for a moment, and start no other."""
        self._stopping = True
        if self._restart is not None:
            self._restart.cancel()
        worker = self._worker
        if worker is not None:
            worker.link.send(0, Stop())
            if not worker.ready_ns:
                worker.process.kill()  # it hears nothing while it loads
            try:
                await asyncio.wait_for(worker.process.exited.wait(), STOP_S)
            except TimeoutError:
                worker.process.kill()
                await worker.process.exited.wait()
        if self._lane.state != "failed":
            self._set("stopped", "the server is going down")
        self._lane.close(Unavailable("the server is going down", code="draining", retry_after=5))

    def kill(self) -> None:
        """End the worker now, whatever it does."""
        self._stopping = True
        if self._worker is not None:
            self._worker.process.kill()

    def health(self) -> WorkerHealth:
        """Read the worker's pulse from its status page."""
        lane, worker = self._lane, self._worker
        if worker is None or not worker.ready_ns:
            # The first load shows no pulse. A model that was given up has no worker to be ill:
            # `/ready` tells of it, and restarting the host would not help it.
            return WorkerHealth(
                model=lane.name,
                ok=lane.state in ("starting", "failed")
                or (lane.state == "loading" and self._failures == 0),
                state=lane.state,
                reason=lane.reason,
                pid=worker.process.pid if worker else None,
                step=0,
                beat_age_ms=None,
            )
        age_ns = max(0, clock.now_ns() - max(worker.ready_ns, worker.end.status[Word.BEAT_NS]))
        hung = age_ns > self._hang_ns
        return WorkerHealth(
            model=lane.name,
            ok=not hung,
            state=lane.state,
            reason=f"the worker shows no sign of life for {age_ns / 1e9:.0f} s" if hung else "",
            pid=worker.process.pid,
            step=worker.end.status[Word.STEP],
            beat_age_ms=round(age_ns / 1e6, 1),
        )

    def reading(self) -> WorkerReading:
        """Return the figures of a metrics scrape."""
        status = self._worker.end.status if self._worker else None

        def word(which: Word) -> int:
            return status[which] if status else 0

        return WorkerReading(
            model=self._lane.name,
            queued=self._lane.queued,
            active=word(Word.ACTIVE),
            kv_tokens=word(Word.KV_TOKENS),
            steps=word(Word.STEP),
            step_seconds=word(Word.STEP_NS) / 1e9,
            decode_seconds=word(Word.DECODE_NS) / 1e9,
        )

    def _hear(self, number: int, message: Message) -> None:
        worker = self._worker
        if worker is None:
            return
        match message:
            case Ready():
                worker.ready_ns = clock.now_ns()
                self._set("ready", "")
                self._lane.identity = worker.origin.identity(message)
                self._lane.attach(worker.link, message)
                self.settled.set()
                _log.info(
                    "model ready",
                    model=self._lane.name,
                    pid=worker.process.pid,
                    load_ms=round(message.load_ms, 1),
                    context=message.context,
                    quantization=message.quantization,
                )
            case LoadFailed():
                worker.load_error = message.reason
            case _:
                self._lane.hear(number, message)

    def _condemn(self, reason: str) -> None:
        """The worker sent nonsense: nothing of it can be trusted any more."""
        _log.error("worker condemned", model=self._lane.name, reason=reason)
        if self._worker is not None:
            self._worker.process.kill()

    def _died(self, code: int) -> None:
        worker = self._worker
        if worker is None:
            return
        worker.link.drain()  # its last words: they come through `_hear`
        worker.link.close()
        self._worker = None
        self._lane.detach()
        if self._stopping:
            return  # `stop` says the rest
        if worker.load_error:
            self._fail(worker.load_error)
        else:
            stable = worker.ready_ns and clock.now_ns() - worker.ready_ns > backoff.STABLE_S * 1e9
            if stable:
                self._failures = 0
            self._retry(
                f"the worker died ({describe_exit(code)})"
                + ("" if worker.ready_ns else " while loading the model"),
            )

    def _retry(self, reason: str) -> None:
        self._failures += 1
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
