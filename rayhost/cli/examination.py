"""All that the doctor looks at, in one pass over this machine. `doctor` calls it.

Invariant: nothing is changed, and what cannot be read becomes a finding and hides no other.
"""

import os
import shlex
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
from rayhost.doctor import (
    access,
    build,
    clock,
    files,
    memory,
    models,
    ports,
    proxy,
    quota,
    running,
    units,
)
from rayhost.doctor.finding import Finding
from rayhost.errors import RayhostError
from rayhost.front.state import HostState
from rayhost.models.store import Store, default_root, free_bytes
from rayhost.profile import ModelProfile, Profile

INSTALLED = Path("etc/rayhost/profile.json")
SERVICE = "rayhost.service"
DEFAULT = Profile(models=(ModelProfile("smollm2-135m"),))


@dataclass(frozen=True, slots=True)
class Subject:
    """What is examined: a machine below `root`, and a host with a profile."""

    profile: Path | None = None  # None: what `rayhost serve` serves without one
    socket: Path | None = None
    deep: bool = False
    root: Path = Path("/")
    ask_build: Callable[[], build.Build] = build.read
    ask_unread: Callable[[], str] = units.unread


class Examination:
    """One pass. Made for one subject and used once."""

    def __init__(self, subject: Subject) -> None:
        """Read the profile; of one that is not valid the mistakes are the first findings."""
        self._subject = subject
        self._root = subject.root
        self._profile = DEFAULT
        self._mistakes: tuple[str, ...] = ()
        try:
            if subject.profile:
                self._profile = profiles.load(subject.profile)
        except profiles.ProfileError as error:
            self._mistakes = error.problems
        self._base = subject.profile.parent if subject.profile else Path.cwd()
        self._store = Store(default_root())
        self._units = units.installed(self._root)
        self._service = bool(self._units) and subject.profile == self._root / INSTALLED
        self._user = self._service_user()
        self._sockets = self._admin_sockets()

    def findings(self) -> Iterator[Finding]:
        """Yield them as they are found."""
        yield from self._invalid()
        looks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
            ("build", self._build),
            ("memory", self._kernel),
            ("cpus", lambda: quota.check(quota.read(self._root))),
            ("port", self._port),
            ("permissions", self._files),
            ("clock", self._clock),
            ("running host", self._running),
            ("units", self._units_in_effect),
            ("proxy", self._proxy),
        ]
        if not self._mistakes:
            looks += [
                ("memory", self._plan),
                ("models", self._models),
                ("permissions", self._access),
                ("open files", self._open_files),
                ("units", self._units_drift),
            ]
        for name, look in looks:
            try:
                yield from look()
            except (OSError, RayhostError) as error:
                yield Finding(
                    name,
                    "warning",
                    f"could not be looked at: {error}",
                    "what is wrong there is not told",
                    "sudo rayhost doctor" if os.geteuid() else "rayhost doctor",
                    "" if os.geteuid() else "once what it says is mended",
                )

    def _invalid(self) -> Iterator[Finding]:
        for mistake in self._mistakes:
            yield Finding(
                "profile",
                "error",
                mistake,
                "a start or reload is refused; what depends on the profile was not looked at",
                f"rayhost check {shlex.quote(str(self._subject.profile))}",
                "mend what it names, then: rayhost reload",
            )

    @property
    def _port_number(self) -> int | None:
        """The port of the profile or, where that is not valid, of the installed socket."""
        return units.port(self._units) if self._mistakes else self._profile.listen.port

    def _service_user(self) -> access.User | None:
        if not self._service:
            return None
        return access.user_of(self._root, units.assignments(self._units.get(SERVICE, "")))

    def _build(self) -> Iterator[Finding]:
        info = (self._root / "proc/cpuinfo").read_text(errors="replace")
        flags = cpu.flags_that_matter(info)
        return build.check(self._subject.ask_build(), flags, service=self._service)

    def _kernel(self) -> Iterator[Finding]:
        return memory.check_kernel(memory.read_memory(self._root))

    def _plan(self) -> Iterator[Finding]:
        found = memory.read_memory(self._root)
        target = str(self._subject.profile or DEFAULT.models[0].name)
        limit, _ = memory.planned_for(found)
        return memory.check_plan(target, found, Forecaster(limit, None).plan(target).refusal)

    def _meaning(self, model: ModelProfile) -> models.Wanted:
        own = model.name.lower() if ":" in (model.source or "") else None
        want = wanted(model.source or model.name, own, self._store)
        return models.Wanted(want.name, want.source, want.sha256)

    def _place(self) -> models.Place:
        pull = "rayhost pull"
        if self._service:  # root's own store is another one
            user = units.assignments(self._units.get(SERVICE, "")).get("User", "rayhost")
            store = shlex.quote(str(self._store.root))
            pull = f"runuser -u {user} -- env RAYHOST_HOME={store} {pull}"
        return models.Place(self._base, self._store, pull)

    def _models(self) -> Iterator[Finding]:
        place = self._place()
        found = models.read(self._profile.models, place, self._meaning, deep=self._subject.deep)
        folder = self._store.root
        while not folder.exists():
            folder = folder.parent
        return models.check(found, models.Disk(self._store.root, free_bytes(folder)))

    def _access(self) -> Iterator[Finding]:
        if self._user is None:
            return
        files_of = models.files(self._profile.models, self._place(), self._meaning)
        places: list[tuple[access.Kind, Path]] = [("model", path) for _, path in files_of]
        texts = (
            text
            for model in self._profile.models
            for text in (*model.preload, model.chat_template or "")
            if text.startswith("file:")
        )
        places += [
            ("model", self._base / Path(text.removeprefix("file:")).expanduser()) for text in texts
        ]
        for kind, path in self._places():
            if kind in ("keys", "profile"):
                places.append((kind, path))
        blocked = access.read(places, self._root, self._user)
        yield from access.check(blocked, self._user, self._store.root)

    def _holders(self, port: int) -> tuple[frozenset[str], list[ports.Holder]]:
        inodes = ports.taken(self._root, port)
        return inodes, ports.holders(self._root, inodes)

    def _port(self) -> Iterator[Finding]:
        port = self._port_number
        return ports.check(port, *self._holders(port)) if port else iter(())

    def _open_files(self) -> Iterator[Finding]:
        _, holders = self._holders(self._profile.listen.port)
        front = next((str(one.pid) for one in holders if one.ours and one.pid != 1), None)
        if front or not self._units:
            hard = ports.open_files(self._root, front or "self")
            connections = self._profile.limits.connections
            yield from ports.check_open_files(connections, hard, service=self._service)

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
            if not self._mistakes and (named or state.url.endswith(f":{port}")):
                yield from running.check_drift(
                    state, digests, port, __version__, service=self._service
                )

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

    def _units_in_effect(self) -> Iterator[Finding]:
        if self._units:
            changed = units.drop_ins(self._root, self._units)
            yield from units.check_effect(changed, self._subject.ask_unread())

    def _proxy(self) -> Iterator[Finding]:
        port = self._port_number
        if port:
            found = proxy.read_configurations(self._root)
            yield from proxy.check(found, port, self._subject.profile)
