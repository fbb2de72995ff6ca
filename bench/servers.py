"""The two servers: how each is started with the same settings, and one that is running.

Every run starts its server afresh and ends it, so nothing is cached from the run before, peaks of
memory are that run's own, and the two are never on the machine together.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec

START_S = 120.0
STOP_S = 15.0
POLL_S = 0.02


class Settings(msgspec.Struct, frozen=True):
    """What both serve, and with what. The KV cache is f16 in both."""

    model: str  # the file
    name: str  # what requests call it
    context: int  # tokens of one slot
    slots: int
    threads: int
    kv_layout: str  # split or unified
    peer_flash: str = "auto"  # llama-server's flash attention: auto, its default, on or off


class Launch(msgspec.Struct, frozen=True):
    """How a server is started. `ready` finds its URL, as group 1, in what it prints."""

    name: str
    argv: tuple[str, ...]
    ready: str
    health: str  # answers 200 once requests are taken


class ServerFailed(Exception):
    """A server did not start, or died."""


def rayhost(settings: Settings, folder: Path) -> Launch:
    """Return how this checkout's host is started; writes its profile into `folder`."""
    profile = folder / "profile.json"
    model = {
        "name": settings.name,
        "source": f"file:{settings.model}",
        "context": settings.context,
        "concurrency": settings.slots,
        "threads": settings.threads,
        "kv": {"type": "f16", "layout": settings.kv_layout},
    }
    profile.write_text(json.dumps({"models": [model]}))
    serve = ("serve", "--profile", str(profile), "--port", "0", "--log-format", "json")
    return Launch(
        name="rayhost",
        # A store of its own: the very file and settings named here, whatever was tuned.
        argv=("env", f"RAYHOST_HOME={folder}", sys.executable, "-m", "rayhost", *serve),
        ready=r"ready after .*?(http://[0-9.]+:\d+)",
        health="/ready",
    )


def llama_flags(settings: Settings) -> tuple[str, ...]:
    """Return llama-server's arguments. What is not here is its default: so its users run it."""
    unified = "--kv-unified" if settings.kv_layout == "unified" else "--no-kv-unified"
    return (
        *("--model", settings.model, "--alias", settings.name),
        *("--ctx-size", str(settings.context * settings.slots), "--parallel", str(settings.slots)),
        *("--threads", str(settings.threads), "--threads-batch", str(settings.threads)),
        *(
            "--flash-attn",
            settings.peer_flash,
            "--cache-type-k",
            "f16",
            "--cache-type-v",
            "f16",
            unified,
        ),
        *("--n-gpu-layers", "0", "--host", "127.0.0.1", "--port", "0", "--offline"),
    )


def llama_server(program: Path, settings: Settings) -> Launch:
    """Return how a llama-server is started."""
    return Launch(
        name="llama-server",
        argv=(str(program), *llama_flags(settings)),
        ready=r"listening on (http://[0-9.]+:\d+)",
        health="/health",
    )


def xllamacpp(python: Path, settings: Settings) -> Launch:
    """Return how llama.cpp's server inside the xllamacpp package is started."""
    program = Path(__file__).parent / "xllamacpp_server.py"
    return Launch(
        name="xllamacpp",
        argv=(str(python), str(program), msgspec.json.encode(settings).decode()),
        ready=r"listening on (http://[0-9.]+:\d+)",
        health="/health",
    )


class Server(msgspec.Struct, frozen=True):
    """A running server; `pid` is that of its first process."""

    url: str
    pid: int


@contextlib.contextmanager
def running(launch: Launch, log: Path) -> Iterator[Server]:
    """Start a server and end it. What it prints goes to `log`. Raises ServerFailed."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            # Told to end when the harness dies in whatever way: it runs no clean-up after SIGKILL.
            ["setpriv", "--pdeathsig", "TERM", *launch.argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # an interrupt is for the harness, which then ends the server
        )
    try:
        yield Server(_wait_until_ready(launch, process, log), process.pid)
        if process.poll() is not None:
            raise ServerFailed(_obituary(launch, process, log))
    finally:
        _stop(process)


def _wait_until_ready(launch: Launch, process: subprocess.Popen[bytes], log: Path) -> str:
    give_up = time.monotonic() + START_S
    while time.monotonic() < give_up:
        if process.poll() is not None:
            raise ServerFailed(_obituary(launch, process, log))
        found = re.search(launch.ready, log.read_text(errors="replace"))
        if found and _healthy(found[1] + launch.health):
            return found[1]
        time.sleep(POLL_S)
    raise ServerFailed(f"{launch.name} was not ready after {START_S:.0f} s; see {log}")


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:  # 503: still loading
        return False


def _obituary(launch: Launch, process: subprocess.Popen[bytes], log: Path) -> str:
    last = " / ".join(log.read_text(errors="replace").splitlines()[-3:])
    return f"{launch.name} ended with status {process.returncode}: {last}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server politely, then every process of its session for certain."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
