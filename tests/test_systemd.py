"""What is said to systemd, on a real datagram socket, and what is taken from it."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from rayhost import systemd
from rayhost.errors import RayhostError
from rayhost.systemd import Notifier
from tests.support.waiting import soon


class Systemd:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.setblocking(False)
        self.address = address

    def heard(self) -> list[dict[str, str]]:
        """Every message since the last call, by its lines."""
        messages: list[dict[str, str]] = []
        while True:
            try:
                raw = self.socket.recv(4096)
            except BlockingIOError:
                return messages
            messages.append(dict(line.split("=", 1) for line in raw.decode().split("\n")))


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    address = (
        str(tmp_path / "notify") if request.param == "path" else f"@rayhost-test-{os.getpid()}"
    )
    manager = Systemd(address)
    yield manager
    manager.socket.close()


def test_each_stage_of_a_life_is_told(manager: Systemd) -> None:
    notifier = Notifier(manager.address)
    notifier.extend()
    notifier.ready("tiny ready")
    notifier.status("1 request")
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    notifier.stopping("going down")
    extend, ready, status, reloading, stopping = manager.heard()
    assert extend == {"EXTEND_TIMEOUT_USEC": "30000000"}
    assert ready == {"READY": "1", "STATUS": "tiny ready"}
    assert status == {"STATUS": "1 request"}
    assert reloading["RELOADING"] == "1"
    assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    assert stopping == {"STOPPING": "1", "STATUS": "going down"}


def test_more_time_is_asked_for_at_most_once_a_second(
    manager: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    notifier = Notifier(manager.address)
    for now_ns in range(10**12, 10**12 + 2_500_000_000, 1_000_000):
        monkeypatch.setattr("rayhost.clock.now_ns", lambda at=now_ns: at)
        notifier.extend()
    assert len(manager.heard()) == 3


def test_a_line_of_status_is_one_line(manager: Systemd) -> None:
    Notifier(manager.address).status("bad\nREADY=1")
    assert manager.heard() == [{"STATUS": "bad READY=1"}]


def test_a_manager_that_is_gone_stops_nobody(tmp_path: Path) -> None:
    with capture_logs() as lines:
        Notifier(str(tmp_path / "gone")).ready("x")
        Notifier().ready("x")
    (line,) = lines
    assert line["event"] == "systemd not told"


def test_what_was_for_this_process_is_taken_out_of_the_environment(manager: Systemd) -> None:
    environment = {
        "NOTIFY_SOCKET": manager.address,
        "WATCHDOG_USEC": "20000000",
        "WATCHDOG_PID": str(os.getpid()),
        "PATH": "/bin",
    }
    notifier = Notifier.taken_from(environment)
    assert environment == {"PATH": "/bin"}
    assert notifier.watchdog_s == 20.0
    notifier.alive()
    assert manager.heard() == [{"WATCHDOG": "1"}]


@pytest.mark.parametrize(
    "given",
    [
        {"WATCHDOG_USEC": "1000"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/x"},
        {},
    ],
)
def test_a_watchdog_that_is_not_for_this_process_is_none(given: dict[str, str]) -> None:
    assert Notifier.taken_from(given).watchdog_s == 0.0
    assert given == {}


async def test_the_watchdog_is_fed_while_the_loop_steps_and_nothing_is_stuck(
    manager: Systemd,
) -> None:
    counter, trouble, stepping = 0, "", True

    def steps() -> int:
        nonlocal counter
        counter += stepping
        return counter

    feeding = asyncio.create_task(
        systemd.feed(Notifier(manager.address, 0.03), steps, lambda: trouble, lambda: "serving")
    )

    async def until(wanted: dict[str, str], never: str) -> None:
        def heard() -> bool:
            messages = manager.heard()
            assert not any(never in message for message in messages), messages
            return wanted in messages

        await soon(heard, str(wanted))

    await until({"WATCHDOG": "1"}, "READY")
    trouble = "tiny: it does not die"
    await until({"STATUS": "stuck: tiny: it does not die"}, "READY")
    manager.heard()
    trouble, stepping = "", False
    await until({"STATUS": "stuck: the server's loop stands still"}, "WATCHDOG")
    stepping = True
    await until({"WATCHDOG": "1"}, "READY")
    feeding.cancel()


async def test_without_a_watchdog_there_is_nothing_to_feed() -> None:
    await systemd.feed(Notifier("/x"), lambda: 0, lambda: "", lambda: "")


def activated(family: socket.AddressFamily, listens: bool, *environment: str) -> str:
    """Run a process with a socket as descriptor 3 and return what it makes of it."""
    program = (
        "import os, sys\n"
        "from rayhost import systemd\n"
        "from rayhost.errors import RayhostError\n"
        "for one in sys.argv[1:]:\n"
        "    name, _, value = one.partition('=')\n"
        "    os.environ[name] = value.replace('SELF', str(os.getpid()))\n"
        "try:\n"
        "    found = systemd.taken_listeners(os.environ)\n"
        "    print([(one.fileno(), one.getsockname(), one.get_inheritable()) for one in found])\n"
        "except RayhostError as error:\n"
        "    print(error)\n"
        "assert not [name for name in os.environ if name.startswith('LISTEN_')]\n"
    )
    with socket.socket(family) as given:
        given.bind(("127.0.0.1", 0) if family is socket.AF_INET else "")
        if listens:
            given.listen()
        script = f'exec 3<&{given.fileno()}; exec "$0" -c "$1" "$@"'
        result = subprocess.run(
            ["/bin/bash", "-c", script, sys.executable, program, *environment],
            pass_fds=[given.fileno()],
            capture_output=True,
            text=True,
            check=True,
        )
        name = given.getsockname()
    return result.stdout.strip().replace(repr(name), "ADDRESS")


OURS = ("LISTEN_PID=SELF", "LISTEN_FDS=1", "LISTEN_FDNAMES=http")


def test_a_listening_socket_is_adopted_and_not_handed_on() -> None:
    assert activated(socket.AF_INET, True, *OURS) == "[(3, ADDRESS, False)]"


@pytest.mark.parametrize("environment", [(), ("LISTEN_PID=1", "LISTEN_FDS=1")])
def test_sockets_for_another_process_are_left_alone(environment: tuple[str, ...]) -> None:
    assert activated(socket.AF_INET, True, *environment) == "[]"


@pytest.mark.parametrize(("family", "listens"), [(socket.AF_INET, False), (socket.AF_UNIX, True)])
def test_a_socket_of_another_kind_is_named(family: socket.AddressFamily, listens: bool) -> None:
    said = activated(family, listens, *OURS)
    assert said.startswith("systemd's socket http is no listening TCP socket")


def test_a_descriptor_that_is_no_socket_is_named() -> None:
    said = activated(socket.AF_INET, True, "LISTEN_PID=SELF", "LISTEN_FDS=9")
    assert "cannot be used" in said


def test_secrets_become_variables_unless_they_are_set(tmp_path: Path) -> None:
    (tmp_path / "env_HF_TOKEN").write_text("hf_secret\n")
    (tmp_path / "env_SET").write_text("no")
    (tmp_path / "other").write_text("no")
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path), "SET": "yes"}
    assert systemd.take_secrets(environment) == ["HF_TOKEN"]
    assert (environment["HF_TOKEN"], environment["SET"]) == ("hf_secret", "yes")
    assert systemd.take_secrets({}) == []


def test_a_secret_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "env_TOKEN").write_bytes(b"\xff")
    with pytest.raises(RayhostError, match="env_TOKEN"):
        systemd.take_secrets({"CREDENTIALS_DIRECTORY": str(tmp_path)})
