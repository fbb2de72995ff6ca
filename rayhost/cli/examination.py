"""All that the doctor looks at, in one pass over this machine. `doctor` calls it.

Invariant: nothing is changed, and what cannot be read becomes a finding and hides no other.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rayhost import __version__, admin_socket
from rayhost import profile as profiles
from rayhost.baseline import cpu
from rayhost.cli.forecast import Forecaster
from rayhost.cli.pull import wanted
from rayhost.deploy.machine import this_machine
from rayhost.deploy.profile import read_profile
from rayhost.doctor import build, clock, files, memory, models, ports, proxy, running, units
from rayhost.doctor.finding import Finding
from rayhost.errors import RayhostError
from rayhost.front.state import HostState
from rayhost.models.store import Store, default_root, free_bytes
from rayhost.profile import ModelProfile, Profile

INSTALLED = Path("etc/rayhost/profile.json")
DEFAULT = Profile(models=(ModelProfile("smollm2-135m"),))


@dataclass(frozen=True, slots=True)
class Subject:
    """What is examined: a machine below `root`, and a host with a profile."""

    profile: Path | None = None  # None: what `rayhost serve` serves without one
    socket: Path | None = None
    deep: bool = False
    root: Path = Path("/")
    ask_build: Callable[[], build.Build] = build.read


class Examination:
    """One pass. Made for one subject and used once."""

    def __init__(self, subject: Subject) -> None:
        """Read the profile. Raises RayhostError for one that is not valid."""
        self._subject = subject
        self._root = subject.root
        self._profile = profiles.load(subject.profile) if subject.profile else DEFAULT
        self._base = subject.profile.parent if subject.profile else Path.cwd()
        self._store = Store(default_root())
        self._units = units.installed(self._root)
        self._sockets = self._admin_sockets()

    def findings(self) -> Iterator[Finding]:
        """Yield them as they are found."""
        looks: dict[str, Callable[[], Iterable[Finding]]] = {
            "build": self._build,
            "memory": self._memory,
            "models": self._models,
            "port": self._port,
            "permissions": self._files,
            "clock": self._clock,
            "running host": self._running,
            "units": self._units_drift,
            "proxy": self._proxy,
        }
        for name, look in looks.items():
            try:
                yield from look()
            except (OSError, RayhostError) as error:
                yield Finding(
                    name,
                    "warning",
                    f"could not be looked at: {error}",
                    "what is wrong there is not told",
                    "sudo rayhost doctor" if os.geteuid() else "mend what it says, and look again",
                )

    def _build(self) -> Iterator[Finding]:
        info = (self._root / "proc/cpuinfo").read_text(errors="replace")
        return build.check(self._subject.ask_build(), cpu.flags_that_matter(info))

    def _memory(self) -> Iterator[Finding]:
        found = memory.read_memory(self._root)
        yield from memory.check_kernel(found)
        target = str(self._subject.profile or DEFAULT.models[0].name)
        plan = Forecaster(found.limit, None).plan(target)
        yield from memory.check_plan(target, found, plan.needed, plan.refusal)

    def _models(self) -> Iterator[Finding]:
        def meaning(model: ModelProfile) -> models.Wanted:
            own = model.name.lower() if ":" in (model.source or "") else None
            want = wanted(model.source or model.name, own, self._store)
            return models.Wanted(want.name, want.source, want.sha256)

        found = models.read(
            self._profile.models, self._base, self._store, meaning, deep=self._subject.deep
        )
        folder = self._store.root
        while not folder.exists():
            folder = folder.parent
        return models.check(found, models.Disk(self._store.root, free_bytes(folder)))

    def _port(self) -> Iterator[Finding]:
        port = self._profile.listen.port
        inodes = ports.taken(self._root, port)
        holders = ports.holders(self._root, inodes)
        yield from ports.check(port, inodes, holders)
        front = next((str(one.pid) for one in holders if one.ours and one.pid != 1), None)
        if front or not self._units:
            hard = ports.open_files(self._root, front or "self")
            yield from ports.check_open_files(self._profile.limits.connections, hard)

    def _files(self) -> Iterator[Finding]:
        return files.check(files.read(self._places()))

    def _places(self) -> Iterator[tuple[files.Kind, Path]]:
        keys = self._profile.keys
        yield "keys", self._base / keys if keys else default_root() / "keys.json"
        if self._subject.profile:
            yield "profile", self._subject.profile
            yield "secrets", self._subject.profile.parent / "secrets"
        for path in self._sockets:
            yield "admin socket", path

    def _clock(self) -> Iterator[Finding]:
        return clock.check(clock.read(path for _, path in self._places()))

    def _running(self) -> Iterator[Finding]:
        digests = profiles.digests(self._profile)
        port = self._profile.listen.port
        states = [self._state(path) for path in self._sockets]
        if not states:
            yield from running.check_absent(units=bool(self._units))
        for state in states:
            yield from running.check_health(state)
            # Of several hosts, and of one whose profile nobody named, only that port's is meant.
            named = self._subject.profile is not None and len(states) == 1
            if named or state.url.endswith(f":{port}"):
                yield from running.check_drift(state, digests, port, __version__)

    def _state(self, path: Path) -> HostState:
        status, body = admin_socket.ask(path, "GET", "/admin/state")
        try:
            return msgspec.json.decode(body, type=HostState)
        except msgspec.DecodeError as error:
            raise RayhostError(f"{path}: a host of another version ({status}): {error}") from None

    def _admin_sockets(self) -> list[Path]:
        named = self._profile.listen.admin_socket
        if self._subject.socket:
            return [self._subject.socket]
        found = {*admin_socket.running(), *([self._base / named] if named else [])}
        return sorted(path for path in found if path.exists())

    def _units_drift(self) -> Iterator[Finding]:
        if self._units and self._subject.profile:
            machine = this_machine(self._root / "proc", self._root / "sys/fs/cgroup")
            given = read_profile(self._subject.profile)
            yield from units.check(self._units, units.wanted(given, machine, self._units))

    def _proxy(self) -> Iterator[Finding]:
        return proxy.check(proxy.read_configurations(self._root, self._profile.listen.port))
