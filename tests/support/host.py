"""A whole rayhost as a process, and what a test needs of it: URL, workers, log lines, its end.

Everything that a test starts through here is gone when the `with` block is, also when it fails.
"""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support.waiting import DEADLINE_S, eventually

# Real models are pulled from the machine's own store or not at all.
_OFFLINE = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null"}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "rayhost", *map(str, arguments)]


def environment(home: Path | None) -> dict[str, str]:
    """What a host runs in; `home` is its model store, None for the machine's own."""
    own = {} if home is None else {"RAYHOST_HOME": str(home), "RUNTIME_DIRECTORY": f"{home}/run"}
    return {**os.environ, **_OFFLINE, **own}


def write_profile(path: Path, models: Sequence[Mapping[str, Any]], **limits: float) -> Path:
    path.write_text(json.dumps({"models": models, "limits": limits}))
    return path


def tiny(name: str = "tiny", file: str = "tiny.gguf", **fields: Any) -> dict[str, Any]:
    """A model of a profile: small enough that several hosts fit on any machine."""
    return {
        "name": name,
        "source": f"file:{file}",
        "context": 512,
        "concurrency": 4,
        "batch": 128,
        "threads": 1,
        "share": "none",  # each request is to be computed, also one that was asked before
        **fields,
    }


def gone(processes: Sequence[psutil.Process]) -> bool:
    """Return whether all of them ended; one that its new parent has not reaped yet did."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                return False
    return True


class Host:
    """A running `rayhost serve`."""

    def __init__(self, process: subprocess.Popen[str], ready_line: str, log: Path) -> None:
        found = re.search(r"http://\S+?:\d+", ready_line)
        assert found, f"no URL in {ready_line!r}; stderr: {log.read_text()}"
        self.ready_line = ready_line
        self.url = found[0]
        self.process = process
        self.front = psutil.Process(process.pid)
        self._log = log

    def workers(self) -> list[psutil.Process]:
        return self.front.children()

    def worker(self, model: str = "tiny") -> psutil.Process:
        (found,) = (one for one in self.workers() if model in one.cmdline())
        return found

    @contextlib.contextmanager
    def frozen(self, model: str = "tiny") -> Iterator[None]:
        """Keep a worker from doing anything, so that what it does is as far as it is."""
        worker = self.worker(model)
        worker.suspend()
        eventually(lambda: worker.status() == psutil.STATUS_STOPPED, "the worker to stop")
        try:
            yield
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.resume()

    def stderr(self) -> str:
        return self._log.read_text()

    def log(self) -> list[dict[str, Any]]:
        """Every line of the log. Fails for one that is no JSON object."""
        lines: list[dict[str, Any]] = [json.loads(line) for line in self.stderr().splitlines()]
        return lines

    def requests(self) -> dict[str, dict[str, Any]]:
        """The log line of each request by its id. Fails for a request with two."""
        lines = [line for line in self.log() if line["event"] == "request"]
        by_id = {line["request_id"]: line for line in lines}
        assert len(by_id) == len(lines), lines
        return by_id

    @cached_property  # a pull writes lines that are no JSON into the log
    def admin_socket(self) -> Path:
        (path,) = (line["path"] for line in self.log() if line["event"] == "admin socket")
        return Path(path)

    def metric(self, name: str, model: str = "tiny") -> float:
        text = httpx.get(f"{self.url}/metrics").text
        found = re.search(rf'^{name}{{model="{model}"}} (\S+)$', text, re.MULTILINE)
        assert found, f"no {name} in {text}"
        return float(found[1])

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def exit_status(self) -> int:
        return self.process.wait(DEADLINE_S)


@contextlib.contextmanager
def started(
    profile: Path, home: Path | None, *, prefix: Sequence[str] = (), pass_fds: Sequence[int] = ()
) -> Iterator[Host]:
    """Start a host on a free port, wait for its ready line and yield it.

    `prefix` is a command that ends in executing its arguments.
    """
    log = profile.with_suffix(f".{os.urandom(4).hex()}.log")
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [*prefix, *command("serve", "--profile", profile, "--port", "0")],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment(home),
            start_new_session=True,
            pass_fds=pass_fds,
        ) as process,
    ):
        try:
            yield Host(process, _first_line(process, log), log)
        finally:
            with contextlib.suppress(ProcessLookupError):  # the front, workers, all of them
                os.killpg(process.pid, signal.SIGKILL)


def _first_line(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], DEADLINE_S)[0]:
        raise AssertionError(f"no ready line within {DEADLINE_S:.0f} s: {log.read_text()}")
    return process.stdout.readline()
