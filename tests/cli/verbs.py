"""The verbs that talk with a host, as programs, and a scripted host for them to talk with."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rayhost.http.app import build_app
from tests.http.fake_front import FakeFront
from tests.support.http_server import serving


@contextmanager
def fake_host(front: FakeFront) -> Iterator[str]:
    with serving(build_app(front, body_bytes=1 << 16)) as url:
        yield url


def environment(runtime: Path, **more: str) -> dict[str, str]:
    """Of a user whose only hosts are those of the test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAYHOST_")}
    return {**kept, "RUNTIME_DIRECTORY": str(runtime), **more}


def run(
    *arguments: str, runtime: Path, stdin: str | bytes = "", **more: str
) -> "subprocess.CompletedProcess[str]":
    """Run `rayhost` to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "rayhost", *arguments],
        check=False,
        capture_output=True,
        input=stdin if isinstance(stdin, bytes) else stdin.encode(),
        env=environment(runtime, **more),
        timeout=60,
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)
