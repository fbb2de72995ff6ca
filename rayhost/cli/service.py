"""The life of a running host: put the parts together, say when it is ready, take it down in order.

Down: the first SIGTERM or SIGINT refuses new requests (503) and gives running ones the profile's
`drain_s`; then the workers stop and the connections close. A second signal ends it all at once.
On systemd's sockets nothing is refused: whoever connects from then on waits for the next front.
SIGHUP reads the profile again.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import structlog
import typer
from starlette.types import ASGIApp

from rayhost import clock, procfs
from rayhost import profile as profiles
from rayhost.cli.changes import Reloaded, Setup, after_trying, compare, retried
from rayhost.cli.control import HostControl
from rayhost.cli.fleet import Fleet, Part
from rayhost.cli.greeting import try_it
from rayhost.cli.reloading import Plan, Reloads, Reread
from rayhost.errors import RayhostError
from rayhost.front.admission import Bounds
from rayhost.front.host import Host
from rayhost.front.lane import Lane
from rayhost.front.quota import Quotas
from rayhost.front.result_cache import ResultCache
from rayhost.front.sharing import Share
from rayhost.front.state import ProfileState
from rayhost.governor import alarm
from rayhost.governor.readings import Kernel
from rayhost.http.admin import build_admin_app
from rayhost.http.app import build_app
from rayhost.http.auth import Gate
from rayhost.http.protocol import Bounds as ConnectionBounds
from rayhost.http.server import Server, room_for, url
from rayhost.ipc.messages import Load
from rayhost.metrics import Metrics
from rayhost.profile import Limits, ModelProfile
from rayhost.supervisor.governing import Governing
from rayhost.supervisor.hooks import Hooks
from rayhost.supervisor.keeper import Keeper
from rayhost.systemd import Notifier, extending, feed

if TYPE_CHECKING:
    from rayhost.http.traces import Tracing

_log = structlog.get_logger("rayhost.service")
_EXIT_NOW = 1


class Service:
    """One host. `run` is called once, in the event loop of the process's main thread."""

    def __init__(
        self,
        setup: Setup,
        *,
        listeners: Sequence[socket.socket],
        inherited: bool,
        admin: socket.socket,
        tracing: "Tracing | None",
        notifier: Notifier,
        reread: Reread,
        plan: Plan,
    ) -> None:
        """`listeners` are for clients, `admin` a unix socket for the operator; all listen.

        `inherited` listeners stay open in systemd when this process ends. `reread` and `plan` are
        those of `reloading.Reloads`.
        """
        self._began_ns = clock.now_ns()
        self._setup = setup
        self._started = setup.profile
        self._listeners = listeners
        self._url = url(listeners[0])
        self._inherited = inherited
        self._admin = admin
        self._tracing = tracing
        self._notifier = notifier
        self._reread = reread
        self._plan = plan
        self._hooks = Hooks()
        self._quotas = Quotas()
        self._metrics = Metrics()
        cache = setup.profile.cache
        self._results = ResultCache(cache.bytes, cache.ttl_s)
        self._fleet = Fleet(self._part)
        self._kernel = Kernel()
        self._in_force = ProfileState(profiles.digests(setup.profile))
        self._going_down = asyncio.Event()
        self._exit = 0

    async def run(self) -> int:
        """Serve until told to stop; return the exit status."""
        fleet, notifier = self._fleet, self._notifier
        self._pin()
        fleet.start(self._setup.planned)
        host = Host(fleet.lanes, self._metrics, fleet.health, self._results, self._share())
        server = Server(self._app(host), _bounds(self._limits), self._metrics)
        governing = Governing(
            self._setup.budget,
            kernel=self._kernel,
            parts=lambda: fleet.parts,
            results=self._results,
            relieve=host.relieve,
            now_s=lambda: clock.now_ns() / 1e9,
        )
        reloads = Reloads(
            reread=self._reread,
            plan=self._plan,
            apply=partial(self._apply, host, server, governing),
            notifier=notifier,
            status=self._status,
            going_down=self._going_down,
        )
        control = HostControl(
            url=self._url,
            host=host,
            parts=lambda: fleet.parts,
            results=self._results,
            metrics=self._metrics,
            connections=lambda: server.connections,
            memory=governing.state,
            cpu=self._kernel.cpu,
            profile=lambda: self._in_force,
            reload=reloads.asked,
        )
        self._metrics.watch(fleet.readings, control.reading)
        # A server of its own: it answers when the one for clients is full.
        admin = Server(build_admin_app(control))
        _log.info("access", notice=self._setup.access.notice)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        loop.add_signal_handler(signal.SIGHUP, reloads.begin)
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(server.serve(sockets=list(self._listeners)))
            administering = tasks.create_task(admin.serve(sockets=[self._admin]))
            greeting = tasks.create_task(self._greet())
            ticking = tasks.create_task(self._govern(governing))
            feeding = tasks.create_task(
                feed(notifier, lambda: server.ticks, fleet.stuck, self._status)
            )
            await self._going_down.wait()
            notifier.stopping("ending what runs")
            greeting.cancel()
            ticking.cancel()  # who ends needs no more memory, and nothing is to be started now
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.drain_s):
                    await self._drain(host, server)
            host.drain()
            feeding.cancel()  # what comes now has its own time-out in systemd
            reloads.cancel()
            await asyncio.gather(self._hooks.stop(), fleet.stop())
            server.should_exit = admin.should_exit = True
            await asyncio.gather(serving, administering)
        return self._exit

    def _pin(self) -> None:
        """Run where the front is to run; workers are pinned by themselves."""
        setup = self._setup
        if setup.front_cpus:
            every = {*setup.front_cpus}
            every.update(*(load.cpus for _, load in setup.planned if isinstance(load, Load)))
            narrow = len(setup.front_cpus) < len(every)
            self._kernel.cpus = len(every) if narrow else None
            procfs.pin(setup.front_cpus)

    async def _govern(self, governing: Governing) -> None:
        with alarm.raised(self._kernel, governing.hurry):
            await governing.run()

    async def _drain(self, host: Host, server: Server) -> None:
        if self._inherited:
            await server.leave()
        host.drain()
        await self._fleet.idle()

    @property
    def _limits(self) -> Limits:
        return self._setup.profile.limits

    def _share(self) -> dict[str, Share]:
        return {model.name: model.share for model, _ in self._setup.planned}

    def _app(self, host: Host) -> ASGIApp:
        tracing, access = self._tracing, self._setup.access
        app = build_app(
            host if tracing is None else tracing.front(host),
            body_bytes=self._limits.body_bytes,
            metrics=self._metrics.expose,
            gate=Gate(access.ring, self._quotas, ceiling=access.ceiling, pages=access.pages),
            origins=access.origins,
            refused=lambda code: self._metrics.refused("", code),
            degraded=lambda: host.relief.rungs,
        )
        return app if tracing is None else tracing.app(app)

    def _part(self, model: ModelProfile, load: Load | RayhostError) -> Part:
        lane = Lane(
            name=model.name,
            aliases=model.aliases,
            concurrency=load.concurrency if isinstance(load, Load) else 1,
            bounds=_queue_bounds(self._limits),
            metrics=self._metrics,
            spent=self._quotas.spent,
        )
        return Part(lane, Keeper(lane, load, lambda: self._model_loaded(lane)))

    def _model_loaded(self, lane: Lane) -> None:
        argv = self._setup.profile.hooks.on_model_loaded
        self._hooks.fire("on_model_loaded", argv, model=lane.name, url=self._url)

    async def _apply(
        self, host: Host, server: Server, governing: Governing, new: Setup
    ) -> Reloaded:
        """Serve `new` from now on. Raises RayhostError: then nothing has changed."""
        failed = [lane.name for lane in self._fleet.lanes if lane.state == "failed"]
        changed = compare(self._setup, new, failed, self._started)
        # As small as what runs is now.
        planned = [
            (model, governing.sized(model.name, load) if isinstance(load, Load) else load)
            for model, load in new.planned
        ]
        again = retried(self._setup, new, failed)
        parts = await self._fleet.prepare(planned, changed.replaced, again)
        changed = after_trying(
            changed, [part.lane.name for part in parts if part.lane.state == "failed"]
        )
        if self._going_down.is_set():
            raise RayhostError("the server is going down")
        self._setup = new
        self._in_force = ProfileState(profiles.digests(new.profile), changed.need_restart)
        governing.budget = new.budget
        governing.cache_bytes = new.profile.cache.bytes
        self._results.limit(new.profile.cache.bytes)  # the governor may take of it again
        self._results.ttl_s = new.profile.cache.ttl_s
        self._pin()
        leaving = self._fleet.commit(parts)
        bounds = _queue_bounds(self._limits)
        for part, (model, _) in zip(parts, new.planned, strict=True):
            part.lane.aliases = model.aliases
            part.lane.limit(bounds)
        host.serve(self._fleet.lanes, self._share())
        if changed.settings:
            server.serve_app(self._app(host), _bounds(self._limits))
        drain_s = self._limits.drain_s
        await asyncio.gather(*(self._fleet.retire(part, drain_s) for part in leaving))
        _log.info("reloaded", **msgspec.to_builtins(changed))
        return changed

    def _status(self) -> str:
        """Return the line of `systemctl status`."""
        lanes = self._fleet.lanes
        states = Counter(lane.state for lane in lanes)
        told = ", ".join(f"{count} {state}" for state, count in states.items())
        waiting = sum(lane.queued for lane in lanes)
        return f"models: {told}; {waiting} requests waiting; {self._url}"

    async def _greet(self) -> None:
        """Print the one line that says where the host is; end it where no model can be served."""
        async with extending(self._notifier):
            for part in self._fleet.parts:
                await part.keeper.settled.wait()
        lanes = self._fleet.lanes
        ready = [lane for lane in lanes if lane.state != "failed"]
        if not ready:
            for lane in lanes:
                typer.echo(f"rayhost: model {lane.name!r} failed: {lane.reason}", err=True)
            self._exit = 1
            self._going_down.set()
            return
        names = ", ".join(lane.name for lane in ready)
        seconds = (clock.now_ns() - self._began_ns) / 1e9
        line = try_it(self._url, ready[0], keyed=self._setup.access.ring.configured)
        typer.echo(f"rayhost: {names} ready after {seconds:.1f} s; try: {line}")
        self._notifier.ready(self._status())
        self._hooks.fire("on_ready", self._setup.profile.hooks.on_ready, url=self._url)

    def _signalled(self, number: int) -> None:
        if self._going_down.is_set():
            _log.warning("ended by a second signal", signal=signal.Signals(number).name)
            self._fleet.kill()
            self._hooks.kill()
            os._exit(_EXIT_NOW)
        _log.info("going down", signal=signal.Signals(number).name, drain_s=self._limits.drain_s)
        self._going_down.set()


def _queue_bounds(limits: Limits) -> Bounds:
    return Bounds(limits.queue, limits.queue_tokens, limits.queue_wait_s)


def _bounds(limits: Limits) -> ConnectionBounds:
    room = room_for(limits.connections)
    if room < limits.connections:
        _log.warning(
            "fewer connections than the profile allows: raise the limit of open files",
            connections=room,
        )
    return ConnectionBounds(room, limits.head_s, limits.body_s, limits.reader_s)
