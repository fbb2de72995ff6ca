"""One worker incarnation as its keeper sees it: process, channel, pulse, and how it ended.

Invariant: the status page stays readable until `close`, which the keeper calls once, after the
process is gone.
"""

import asyncio
import math
import signal
from dataclasses import dataclass

import msgspec

from rayhost import clock, procfs
from rayhost.front.blame import Death
from rayhost.front.lane import Lane
from rayhost.front.link import Link
from rayhost.front.request import Priority, WorkerHealth
from rayhost.ipc.channel import End
from rayhost.ipc.messages import OF_A_CONTEXT, Load, Resize, Stop
from rayhost.ipc.status import STEP_SIZES, STEP_TIMES, Spread, Word
from rayhost.metrics import WorkerReading
from rayhost.supervisor.identity import Origin
from rayhost.supervisor.process import Process, describe_exit
from rayhost.supervisor.pulse import Pulse, signs_of

# Requests, tokens and nanoseconds of prefill that were spared, by where the KV cells came from.
_REUSED = {
    "idle": (Word.REUSED_IDLE, Word.REUSED_IDLE_TOKENS, Word.REUSED_IDLE_NS),
    "busy": (Word.REUSED_BUSY, Word.REUSED_BUSY_TOKENS, Word.REUSED_BUSY_NS),
    "ram": (Word.REUSED_RAM, Word.REUSED_RAM_TOKENS, Word.REUSED_RAM_NS),
    "disk": (Word.REUSED_DISK, Word.REUSED_DISK_TOKENS, Word.REUSED_DISK_NS),
}
# What a worker can take up while it runs.
_SIZES = (*OF_A_CONTEXT, "snapshot_bytes", "threads")
_WELL = ("starting", "failed", "unloaded")  # without a worker
STOP_S = 3.0  # between asking a worker to stop and killing it
_DISK_BYTES_S = 50e6  # a cheap disk: so much longer where it has snapshots to save


@dataclass(slots=True)
class Incarnation:
    """A worker process. Times are CLOCK_MONOTONIC nanoseconds."""

    process: Process
    link: Link
    end: End
    origin: Origin
    pulse: Pulse
    ready_ns: int = 0
    load_error: str = ""
    resizing: Load | None = None  # it was asked for this context and has not answered yet
    death: Death | None = None  # why the keeper ended it, or is about to
    verdict: str = ""  # the same in words

    @property
    def served_s(self) -> float:
        """Seconds since it became ready."""
        return (clock.now_ns() - self.ready_ns) / 1e9 if self.ready_ns else 0.0

    def hung(self) -> str | None:
        """Take a sample of its pulse; return why it must be given up, or None."""
        beat_ns = self.end.status[Word.BEAT_NS]
        return self.pulse.look(clock.now_ns(), beat_ns, lambda: signs_of(self.process.pid))

    def give_up(self, reason: str, death: Death) -> None:
        """Kill it."""
        self.death, self.verdict = death, reason
        self.process.kill()

    async def retire(self) -> None:
        """End it on purpose, politely for a moment; return when it is gone."""
        self.death = Death.REPLACED
        self.link.send(0, Stop())
        if not self.ready_ns:
            self.process.kill()  # it hears nothing while it loads
        patience_s = STOP_S + self.origin.load.snapshot_dir_bytes / _DISK_BYTES_S
        try:
            await asyncio.wait_for(self.process.exited.wait(), patience_s)
        except TimeoutError:
            self.process.kill()
            await self.process.exited.wait()

    def resize(self, load: Load) -> None:
        """Ask for another context; it says Ready when it has it, or LoadFailed."""
        self.resizing = load
        self.link.send(0, Resize(load))

    def close(self) -> None:
        """Take its last words, which come through the link, and let go of the channel."""
        self.link.drain()
        self.link.close()

    def cause(self, code: int) -> tuple[Death, str]:
        """Return what ended it, for the requests it had and for people."""
        death = self.death
        if death is None:
            death = Death.KILLED if code == -signal.SIGKILL else Death.CRASHED
        if self.load_error:
            return death, self.load_error
        reason = self.verdict or f"the worker died ({describe_exit(code)})"
        return death, reason if self.ready_ns else f"{reason} while loading the model"


def only_sizes_differ(one: Load, other: Load) -> bool:
    """Tell whether a worker that has loaded `one` can become one of `other` without a restart."""
    same = {name: getattr(one, name) for name in _SIZES}
    return one != other and msgspec.structs.replace(other, **same) == one


def health(lane: Lane, worker: Incarnation | None, *, first: bool) -> WorkerHealth:
    """Read the pulse of a lane's worker; `first` means that none was lost before it."""
    if worker is None or not worker.ready_ns:
        # The first load shows no pulse. A model that was given up, or unloaded, has no worker to be
        # ill: `/ready` tells of it, and restarting the host would not help it.
        return WorkerHealth(
            model=lane.name,
            ok=lane.state in _WELL or (lane.state == "loading" and first),
            state=lane.state,
            reason=lane.reason,
            pid=worker.process.pid if worker else None,
            step=0,
            beat_age_ms=None,
        )
    age_ns = max(0, clock.now_ns() - max(worker.ready_ns, worker.end.status[Word.BEAT_NS]))
    return WorkerHealth(
        model=lane.name,
        ok=not worker.verdict,
        state=lane.state,
        reason=worker.verdict,
        pid=worker.process.pid,
        step=worker.end.status[Word.STEP],
        beat_age_ms=round(age_ns / 1e6, 1),
    )


def reading(lane: Lane, worker: Incarnation | None) -> WorkerReading:
    """Return the figures of a metrics scrape."""
    status = worker.end.status if worker else None

    queued = lane.queued_by_priority

    def word(which: Word) -> int:
        return status[which] if status else 0

    def steps_by(spread: Spread, unit: float) -> dict[float, int]:
        bounds = [*(bound / unit for bound in spread.bounds), math.inf]
        counts = status.counts(spread) if status else [0] * len(bounds)
        return dict(zip(bounds, counts, strict=True))

    return WorkerReading(
        model=lane.name,
        queued=lane.queued,
        active=word(Word.ACTIVE),
        kv_tokens=word(Word.KV_TOKENS),
        steps=word(Word.STEP),
        step_seconds=word(Word.STEP_NS) / 1e9,
        decode_seconds=word(Word.DECODE_NS) / 1e9,
        kv_cells=lane.concurrency * lane.context,
        prefill_tokens=word(Word.PREFILL_TOKENS),
        decode_tokens=word(Word.DECODE_TOKENS),
        pid=worker.process.pid if worker else None,
        rss_bytes=procfs.rss_bytes(worker.process.pid) if worker else 0,
        snapshots=word(Word.SNAPSHOTS),
        snapshot_bytes=word(Word.SNAPSHOT_BYTES),
        queued_by_priority={one.name.lower(): queued[one] for one in Priority},
        reused_requests={source: word(count) for source, (count, _, _) in _REUSED.items()},
        reused_tokens={source: word(tokens) for source, (_, tokens, _) in _REUSED.items()},
        saved_seconds={source: word(ns) / 1e9 for source, (_, _, ns) in _REUSED.items()},
        width=lane.width,
        batch_tokens=word(Word.BATCH_TOKENS),
        steps_by_seconds=steps_by(STEP_TIMES, 1e9),
        steps_by_tokens=steps_by(STEP_SIZES, 1),
    )
