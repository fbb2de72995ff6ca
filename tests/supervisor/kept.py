"""A lane and the keeper of a real worker for it, with what a test asks of both."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from rayhost.errors import RayhostError
from rayhost.front.admission import Bounds
from rayhost.front.lane import Lane
from rayhost.front.request import GenerateRequest, TextPrompt
from rayhost.front.run import ActiveRun
from rayhost.ipc.messages import Load
from rayhost.ipc.sampling import Sampling
from rayhost.metrics import Metrics
from rayhost.supervisor import topology
from rayhost.supervisor.keeper import Keeper
from tests.support.waiting import soon

CONCURRENCY = 4


def load_of(path: Path, *, cpus: tuple[int, ...] | None = None) -> Load:
    return Load(
        name="tiny",
        path=str(path),
        context=512,
        concurrency=CONCURRENCY,
        batch=128,
        threads=1,
        cpus=tuple(sorted(topology.read().allowed)) if cpus is None else cpus,
        kv_type="q8_0",  # with it a resumed run computes the same numbers as an undisturbed one
        kv_layout="split",
        inter_token_ms=100,
        log_format="json",
    )


class Kept:
    """What `keeping` yields."""

    def __init__(self, load: Load | RayhostError) -> None:
        self.lane = Lane(
            name="tiny", aliases=(), concurrency=CONCURRENCY, bounds=Bounds(100), metrics=Metrics()
        )
        self.times_loaded = 0
        self.keeper = Keeper(self.lane, load, self._loaded)

    def _loaded(self) -> None:
        self.times_loaded += 1

    async def ready(self) -> None:
        """Wait until the lane is ready; fail at once when it has failed."""

        def settled() -> bool:
            assert self.lane.state != "failed", self.lane.reason
            return self.lane.state == "ready"

        await soon(settled, "a worker that is ready")

    @property
    def worker(self) -> psutil.Process:
        """The worker's process."""
        pid = self.keeper.health().pid
        assert pid is not None
        return psutil.Process(pid)

    def signal(self, number: signal.Signals) -> None:
        """Send the worker a signal; it stands still when this returns from SIGSTOP."""
        pid = self.worker.pid
        os.kill(pid, number)
        if number is signal.SIGSTOP:  # its threads may go on for some milliseconds
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    @property
    def generation(self) -> int:
        """Of the channel that the worker was given."""
        return int(self.worker.cmdline()[-2].partition(":")[0])

    async def submit(self, prompt: str, tokens: int = 8) -> ActiveRun:
        return await self.lane.submit(
            GenerateRequest(
                id=prompt,
                model="tiny",
                prompt=TextPrompt(prompt),
                sampling=Sampling(temperature=0.0),
                max_tokens=tokens,
            )
        )


def workers() -> list[psutil.Process]:
    """The worker processes of this process; a host that another test keeps has its own."""
    return [child for child in psutil.Process().children() if "rayhost.worker" in child.cmdline()]


@asynccontextmanager
async def keeping(load: Load | RayhostError) -> AsyncIterator[Kept]:
    """Start a keeper and yield it; its worker is ended whatever the test did."""
    kept = Kept(load)
    kept.keeper.start()
    try:
        yield kept
    finally:
        if kept.keeper.health().pid is not None:
            kept.signal(signal.SIGKILL)  # also where it was stopped by a signal
        await kept.keeper.stop()
