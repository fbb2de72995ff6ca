"""What systemd and this process say to each other: sd_notify, listening sockets, secrets. A leaf.

Invariant: without systemd all of it is silent and empty, and what systemd put into the environment
for this process is taken out of it, so that no worker or hook speaks in its name.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from pathlib import Path

import structlog

from rayhost import clock
from rayhost.errors import RayhostError

Environment = MutableMapping[str, str]

FIRST_FD = 3
EXTEND_S = 30.0  # a start or reload that shows life gets so much more time
_EXTEND_EVERY_NS = 1_000_000_000
_FEEDS = 3  # in a watchdog interval, so that one late turn of the loop is no alarm

_log = structlog.get_logger("rayhost.systemd")


class Notifier:
    """Tells systemd how this process is. Never blocks and never fails; a lost message is logged."""

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        """`address` is NOTIFY_SOCKET, empty for nobody; `watchdog_s` 0 means no watchdog."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = watchdog_s if address else 0.0
        self._extended_ns = 0

    @classmethod
    def taken_from(cls, environment: Environment) -> "Notifier":
        """Return the one that systemd set up for this process."""
        address = environment.pop("NOTIFY_SOCKET", "")
        usec = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "")
        ours = pid in ("", str(os.getpid())) and usec.isdigit()
        return cls(address, int(usec) / 1e6 if ours else 0.0)

    def ready(self, status: str) -> None:
        """The start, or a reload, is over: everything that can be served is."""
        self._send("READY=1", f"STATUS={status}")

    def extend(self) -> None:
        """The start or reload goes on: more time for it. May be called often."""
        now_ns = clock.now_ns()
        if now_ns - self._extended_ns >= _EXTEND_EVERY_NS:
            self._extended_ns = now_ns
            self._send(f"EXTEND_TIMEOUT_USEC={EXTEND_S * 1e6:.0f}")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it, whatever came of it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={clock.now_ns() // 1000}", "STATUS=reloading")

    def stopping(self, status: str) -> None:
        """The end has begun."""
        self._send("STOPPING=1", f"STATUS={status}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """Say in a line what `systemctl status` shows."""
        self._send(f"STATUS={text}")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        message = "\n".join(line.replace("\n", " ") for line in lines)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
                out.setblocking(False)
                out.sendto(message.encode(), self._address)
        except OSError as error:
            _log.warning("systemd not told", message=message, reason=str(error))


async def feed(
    notifier: Notifier,
    steps: Callable[[], int],
    trouble: Callable[[], str],
    status: Callable[[], str],
) -> None:
    """Feed the watchdog for as long as the process gets on; runs until cancelled.

    `steps` counts what the event loop does for clients and must have grown since the last time;
    `trouble` says what else is stuck, or nothing. Else the food is withheld, and systemd starts
    the process anew once its interval is over.
    """
    if not notifier.watchdog_s:
        return
    seen, said = steps(), ""
    while True:
        await asyncio.sleep(notifier.watchdog_s / _FEEDS)
        before, seen = seen, steps()
        why = "the server's loop stands still" if seen == before else trouble()
        if not why:
            notifier.alive()
        text = f"stuck: {why}" if why else status()
        if text != said:
            said = text
            notifier.status(text)


def taken_listeners(environment: Environment) -> list[socket.socket]:
    """Return the sockets that systemd listens on for this process, none without them.

    Raises RayhostError for one that is no listening TCP socket.
    """
    pid = environment.pop("LISTEN_PID", "")
    count = environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    names += [""] * int(count)
    return [_adopted(FIRST_FD + index, names[index]) for index in range(int(count))]


def _adopted(descriptor: int, name: str) -> socket.socket:
    what = f"systemd's socket {name or descriptor}"
    try:
        adopted = socket.socket(fileno=descriptor)
        listens = adopted.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise RayhostError(f"{what} cannot be used: {error.strerror}") from None
    adopted.set_inheritable(False)
    if adopted.family not in (socket.AF_INET, socket.AF_INET6) or not listens:
        adopted.close()
        raise RayhostError(f"{what} is no listening TCP socket: see ListenStream= in its unit")
    return adopted


def take_secrets(environment: Environment) -> list[str]:
    """Put what LoadCredential= brought as `env_NAME` into the variable NAME; return the names.

    A variable that is set already stays. Raises RayhostError for one that cannot be read.
    """
    folder = environment.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return []
    taken = []
    for path in sorted(Path(folder).glob("env_*")):
        name = path.name.removeprefix("env_")
        if name in environment:
            continue
        try:
            environment[name] = path.read_text().strip()
        except (OSError, ValueError) as error:
            raise RayhostError(f"{path}: a credential that cannot be used: {error}") from None
        taken.append(name)
    return taken


@contextlib.asynccontextmanager
async def extending(notifier: Notifier) -> AsyncIterator[None]:
    """Ask for more time again and again: what is waited for is watched by others, and ends."""

    async def extend() -> None:
        while True:
            notifier.extend()
            await asyncio.sleep(EXTEND_S / 3)

    task = asyncio.create_task(extend())
    try:
        yield
    finally:
        task.cancel()


@contextlib.contextmanager
def reload_of(notifier: Notifier, status: Callable[[], str]) -> Iterator[None]:
    """Frame a reload; `status` says afterwards what is served."""
    notifier.reloading()
    try:
        yield
    finally:
        notifier.ready(status())
