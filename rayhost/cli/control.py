"""What the admin socket shows and does: a running host's parts, put into one picture.

Reads what is there and asks nobody: a state costs the front some tens of microseconds for each
model, and no worker notices. Made by `service`.
"""

import os
from collections.abc import Awaitable, Callable, Sequence

from rayhost import __version__, clock, procfs
from rayhost.cli.changes import Reloaded
from rayhost.cli.fleet import Part
from rayhost.errors import InvalidRequest, ModelNotFound, RayhostError, Unavailable
from rayhost.front.host import Host
from rayhost.front.lane import Lane
from rayhost.front.result_cache import ResultCache
from rayhost.front.state import (
    CacheState,
    CpuState,
    HostState,
    MemoryState,
    ModelState,
    ProfileState,
)
from rayhost.governor.readings import CpuReadings
from rayhost.metrics import CpuReading, FrontReading, MemoryReading, Metrics
from rayhost.supervisor.keeper import Keeper


class HostControl:
    """Implements `http.admin.Control`."""

    def __init__(
        self,
        *,
        url: str,
        host: Host,
        parts: Callable[[], Sequence[Part]],
        results: ResultCache,
        metrics: Metrics,
        connections: Callable[[], int],
        memory: Callable[[], MemoryState],
        cpu: Callable[[], CpuReadings],
        profile: Callable[[], ProfileState],
        reload: Callable[[], Awaitable[Reloaded]],
    ) -> None:
        """`connections` tells how many clients are connected; `reload` raises RayhostError."""
        self._url = url
        self._host = host
        self._parts = parts
        self._results = results
        self._metrics = metrics
        self._connections = connections
        self._memory = memory
        self._cpu = cpu
        self._profile = profile
        self._reload = reload
        self._began_ns = clock.now_ns()

    def state(self) -> HostState:
        """Return how the host is now."""
        front = self.reading()
        return HostState(
            version=__version__,
            url=self._url,
            uptime_s=(clock.now_ns() - self._began_ns) / 1e9,
            draining=self._host.draining(),
            connections=front.connections,
            front_rss_bytes=front.rss_bytes,
            available_bytes=procfs.available_bytes(),
            cache=CacheState(
                front.cache_entries, front.cache_bytes, self._metrics.cache_outcomes()
            ),
            models=tuple(_model(part.lane, part.keeper) for part in self._parts()),
            memory=self._memory(),
            cpu=CpuState(front.cpu.stolen_seconds, front.cpu.throttled_seconds, front.cpu.waiting),
            unanswered=self._metrics.unanswered(),
            profile=self._profile(),
        )

    def reading(self) -> FrontReading:
        """Return the front's figures of a metrics scrape."""
        return FrontReading(
            rss_bytes=procfs.rss_bytes(os.getpid()),
            connections=self._connections(),
            cache_entries=len(self._results),
            cache_bytes=self._results.bytes_used,
            memory=self._memory_reading(),
            cpu=self._cpu_reading(),
        )

    def _cpu_reading(self) -> CpuReading:
        cpu = self._cpu()
        return CpuReading(
            cores=cpu.cores,
            stolen_seconds=cpu.stolen_s,
            throttled_seconds=cpu.throttle.stopped_ns / 1e9,
            throttled_periods=cpu.throttle.periods,
            waiting=cpu.pressure.some if cpu.pressure else None,
        )

    def _memory_reading(self) -> MemoryReading:
        memory = self._memory()
        return MemoryReading(
            limit_bytes=memory.limit_bytes,
            used_bytes=memory.used_bytes,
            ours_bytes=memory.ours_bytes,
            allowed_bytes=memory.allowed_bytes,
            needed_bytes=memory.needed_bytes,
            level=memory.level,
            rungs=memory.rungs,
        )

    def purge_cache(self) -> int:
        """Forget every kept answer; return how many there were."""
        return self._host.purge_cache()

    async def restart(self, model: str) -> None:
        """Replace a model's worker. Raises ModelNotFound and Unavailable."""
        for part in self._parts():
            if model == part.lane.name or model in part.lane.aliases:
                try:
                    await part.keeper.reload()
                except RayhostError as error:
                    raise Unavailable(str(error), code="restart_failed") from None
                return
        raise ModelNotFound(f"the model {model[:100]!r} is not served here", param="model")

    async def reload(self) -> Reloaded:
        """Apply the profile as it is now. Raises InvalidRequest: then nothing has changed."""
        try:
            return await self._reload()
        except RayhostError as error:
            raise InvalidRequest(str(error), code="reload_refused") from None


def _model(lane: Lane, keeper: Keeper) -> ModelState:
    reading = keeper.reading()
    return ModelState(
        name=lane.name,
        state=lane.state,
        reason=lane.reason,
        pid=reading.pid,
        rss_bytes=reading.rss_bytes,
        concurrency=lane.concurrency,
        active=reading.active,
        queued=reading.queued,
        queued_by_priority=reading.queued_by_priority,
        kv_tokens=reading.kv_tokens,
        kv_cells=reading.kv_cells,
        steps=reading.steps,
        step_s=reading.step_seconds,
        prefill_tokens=reading.prefill_tokens,
        decode_tokens=reading.decode_tokens,
        reused_tokens=reading.reused_tokens,
        snapshots=reading.snapshots,
        snapshot_bytes=reading.snapshot_bytes,
        requests=tuple(lane.requests()),
    )
