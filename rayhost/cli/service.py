"""The life of a running host: put the parts together, say when it is ready, take it down in order.

Down: the first SIGTERM or SIGINT refuses new requests (503) and gives running ones the profile's
`drain_s`; then the workers stop and the connections close. A second signal ends it all at once.
"""

import asyncio
import contextlib
import os
import shlex
import signal
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

import orjson
import structlog
import typer
from starlette.types import ASGIApp

from rayhost import clock
from rayhost.cli.access import Access
from rayhost.cli.control import HostControl
from rayhost.errors import RayhostError
from rayhost.front.admission import Bounds
from rayhost.front.host import Host
from rayhost.front.lane import Lane
from rayhost.front.quota import Quotas
from rayhost.front.request import WorkerHealth
from rayhost.front.result_cache import ResultCache
from rayhost.http.admin import build_admin_app
from rayhost.http.app import build_app
from rayhost.http.auth import Gate
from rayhost.http.protocol import Bounds as ConnectionBounds
from rayhost.http.server import Server, room_for, url
from rayhost.ipc.messages import Load
from rayhost.metrics import Metrics
from rayhost.profile import Cache, Limits, ModelProfile
from rayhost.profile import Hooks as Commands
from rayhost.supervisor.hooks import Hooks
from rayhost.supervisor.keeper import Keeper

if TYPE_CHECKING:
    from rayhost.http.traces import Tracing

_log = structlog.get_logger("rayhost.service")
_EXIT_NOW = 1

Planned = tuple[ModelProfile, Load | RayhostError]


class Service:
    """One host. `run` is called once, in the event loop of the process's main thread."""

    def __init__(
        self,
        models: Sequence[Planned],
        limits: Limits,
        *,
        listener: socket.socket,
        cache: Cache,
        access: Access,
        admin: socket.socket,
        tracing: "Tracing | None",
        commands: Commands,
    ) -> None:
        """`listener` is for clients, `admin` a unix socket for the operator; both listen."""
        self._began_ns = clock.now_ns()
        self._models = models
        self._limits = limits
        self._listener = listener
        self._access = access
        self._admin = admin
        self._tracing = tracing
        self._commands = commands
        self._hooks = Hooks()
        self._quotas = Quotas()
        self._metrics = Metrics()
        self._results = ResultCache(cache.bytes, cache.ttl_s)
        self._lanes: list[Lane] = []
        self._keepers: list[Keeper] = []
        self._going_down = asyncio.Event()
        self._exit = 0

    async def run(self) -> int:
        """Serve until told to stop; return the exit status."""
        for model, load in self._models:
            self._add(model, load)
        share = {model.name: model.share for model, _ in self._models}
        host = Host(self._lanes, self._metrics, self._health, self._results, share)
        server = Server(self._app(host), _bounds(self._limits), self._metrics)
        control = HostControl(
            url=url(self._listener),
            host=host,
            parts=list(zip(self._lanes, self._keepers, strict=True)),
            results=self._results,
            metrics=self._metrics,
            connections=lambda: server.connections,
        )
        self._metrics.watch(lambda: [keeper.reading() for keeper in self._keepers], control.reading)
        # A server of its own: it answers when the one for clients is full.
        admin = Server(build_admin_app(control))
        _log.info("access", notice=self._access.notice)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(server.serve(sockets=[self._listener]))
            administering = tasks.create_task(admin.serve(sockets=[self._admin]))
            greeting = tasks.create_task(self._greet())
            await self._going_down.wait()
            greeting.cancel()
            host.drain()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(host.idle(), self._limits.drain_s)
            await asyncio.gather(self._hooks.stop(), *(keeper.stop() for keeper in self._keepers))
            server.should_exit = admin.should_exit = True
            await asyncio.gather(serving, administering)
        return self._exit

    def _app(self, host: Host) -> ASGIApp:
        tracing = self._tracing
        app = build_app(
            host if tracing is None else tracing.front(host),
            body_bytes=self._limits.body_bytes,
            metrics=self._metrics.expose,
            gate=Gate(self._access.ring, self._quotas, ceiling=self._access.ceiling),
            origins=self._access.origins,
        )
        return app if tracing is None else tracing.app(app)

    def _add(self, model: ModelProfile, load: Load | RayhostError) -> None:
        lane = Lane(
            name=model.name,
            aliases=model.aliases,
            concurrency=model.concurrency,
            bounds=Bounds(self._limits.queue, self._limits.queue_tokens, self._limits.queue_wait_s),
            metrics=self._metrics,
            spent=self._quotas.spent,
        )
        keeper = Keeper(lane, load, lambda: self._model_loaded(lane))
        self._lanes.append(lane)
        self._keepers.append(keeper)
        keeper.start()

    def _model_loaded(self, lane: Lane) -> None:
        argv = self._commands.on_model_loaded
        self._hooks.fire("on_model_loaded", argv, model=lane.name, url=url(self._listener))

    def _health(self) -> list[WorkerHealth]:
        return [keeper.health() for keeper in self._keepers]

    async def _greet(self) -> None:
        """Print the one line that says where the host is; end it where no model can be served."""
        for keeper in self._keepers:
            await keeper.settled.wait()
        ready = [lane for lane in self._lanes if lane.state != "failed"]
        if not ready:
            for lane in self._lanes:
                typer.echo(f"rayhost: model {lane.name!r} failed: {lane.reason}", err=True)
            self._exit = 1
            self._going_down.set()
            return
        names = ", ".join(lane.name for lane in ready)
        seconds = (clock.now_ns() - self._began_ns) / 1e9
        typer.echo(f"rayhost: {names} ready after {seconds:.1f} s; try: {self._curl(ready[0])}")
        self._hooks.fire("on_ready", self._commands.on_ready, url=url(self._listener))

    def _curl(self, lane: Lane) -> str:
        if lane.chat:
            path = "/v1/chat/completions"
            question = "What is the capital of France? Answer with one word."
            ask: dict[str, object] = {"messages": [{"role": "user", "content": question}]}
        else:
            path, ask = "/v1/completions", {"prompt": "The capital of France is"}
        ask["temperature"] = 0
        body = orjson.dumps({"model": lane.name, **ask}).decode()
        headers = ["-H", "Content-Type: application/json"]
        if self._access.ring.configured:
            headers += ["-H", "Authorization: Bearer YOUR_KEY"]
        return shlex.join(["curl", "-s", url(self._listener) + path, *headers, "-d", body])

    def _signalled(self, number: int) -> None:
        if self._going_down.is_set():
            _log.warning("ended by a second signal", signal=signal.Signals(number).name)
            for keeper in self._keepers:
                keeper.kill()
            self._hooks.kill()
            os._exit(_EXIT_NOW)
        _log.info("going down", signal=signal.Signals(number).name, drain_s=self._limits.drain_s)
        self._going_down.set()


def _bounds(limits: Limits) -> ConnectionBounds:
    room = room_for(limits.connections)
    if room < limits.connections:
        _log.warning(
            "fewer connections than the profile allows: raise the limit of open files",
            connections=room,
        )
    return ConnectionBounds(room, limits.head_s, limits.body_s, limits.reader_s)
