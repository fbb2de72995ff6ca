"""How a host ends: asked once, asked twice, killed; and what becomes of the requests it has."""

import signal
import socket
from pathlib import Path

import httpx
import psutil
import pytest

from tests.end_to_end.ask import complete, send, streaming
from tests.end_to_end.conftest import LONG
from tests.support.host import Host, gone, started, tiny, write_profile
from tests.support.waiting import eventually

pytestmark = pytest.mark.heavy

FOREVER_S = 600


def profile(models: Path, drain_s: float) -> Path:
    return write_profile(models / "down.json", [tiny(context=LONG)], drain_s=drain_s)


def draining(host: Host) -> bool:
    return "draining" in httpx.get(f"{host.url}/ready").text


def refuses_connections(url: str) -> bool:
    address = httpx.URL(url)
    with socket.socket() as client:
        return client.connect_ex((address.host, address.port or 0)) != 0


def test_sigterm_lets_running_requests_finish_and_refuses_new_ones(
    models: Path, store: Path
) -> None:
    with (
        started(profile(models, FOREVER_S), store) as host,
        streaming(host, max_tokens=1500) as stream,
    ):
        workers = host.workers()
        stream.first_text()
        with host.frozen():
            whole = send(host)
            eventually(lambda: host.metric("rayhost_queued") == 1, "the second to be taken")
            host.terminate()
            eventually(lambda: draining(host), "the host to go down")
            refused = complete(host, "too-late")
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "draining"
            assert int(refused.headers["Retry-After"]) >= 1
            assert httpx.get(f"{host.url}/health").status_code == 200, "it is not ill"
        assert stream.rest()[1] == "length"
        with whole:
            assert whole.recv(100).startswith(b"HTTP/1.1 200 OK")
        assert host.exit_status() == 0
        assert gone(workers)
        assert refuses_connections(host.url)
        assert host.requests()["too-late"]["outcome"] == "draining"


def test_an_idle_host_ends_at_once(models: Path, store: Path) -> None:
    with started(profile(models, FOREVER_S), store) as host:
        with httpx.Client() as kept_alive:
            assert kept_alive.get(f"{host.url}/health").status_code == 200
            host.process.send_signal(signal.SIGINT)
            assert host.exit_status() == 0
        events = [line["event"] for line in host.log()]
        at_start = {"access", "admin socket", "memory planned", "not tuned"}
        assert [event for event in events if event not in at_start] == ["model ready", "going down"]


def test_a_request_that_outlives_the_deadline_is_told_so(models: Path, store: Path) -> None:
    with (
        started(profile(models, 0.1), store) as host,
        streaming(host, "cut", max_tokens=LONG - 100) as stream,
    ):
        stream.first_text()
        with host.frozen(), send(host, "cut-whole") as whole:
            eventually(lambda: host.metric("rayhost_queued") == 1, "the second to be taken")
            host.terminate()
            *_, last = stream.events()
            answer = whole.recv(65536)
        assert last["error"]["code"] == "draining"
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert host.exit_status() == 0
        outcomes = {name: line["outcome"] for name, line in host.requests().items()}
        assert outcomes == {"cut": "draining", "cut-whole": "draining"}


def test_a_second_signal_ends_it_at_once(models: Path, store: Path) -> None:
    with (
        started(profile(models, FOREVER_S), store) as host,
        streaming(host, max_tokens=LONG - 100) as stream,
    ):
        workers = host.workers()
        stream.first_text()
        with host.frozen():
            host.terminate()
            eventually(lambda: draining(host), "the host to go down")
            host.terminate()
            assert host.exit_status() == 1
        eventually(lambda: gone(workers), "the worker's end")
        assert host.log()[-1]["event"] == "ended by a second signal"


@pytest.mark.parametrize("busy", [False, True])
def test_no_worker_outlives_a_front_that_was_killed(models: Path, store: Path, busy: bool) -> None:
    with started(profile(models, FOREVER_S), store) as host:
        workers = host.workers()
        connections = [send(host, max_tokens=LONG - 100)] if busy else []
        if busy:
            eventually(lambda: host.metric("rayhost_active_sequences") == 1, "the run to start")
        host.process.kill()
        assert host.exit_status() == -signal.SIGKILL
        eventually(lambda: gone(workers), "the worker's end")
        for connection in connections:
            connection.close()


def test_a_host_told_to_end_while_its_model_loads_ends(models: Path, store: Path) -> None:
    with started(profile(models, FOREVER_S), store) as host:
        pid = host.worker().pid
        host.worker().kill()  # and while it is being replaced
        host.terminate()
        assert host.exit_status() == 0
        assert not psutil.pid_exists(pid)
