"""Commands run beside serving: what they are given, and what becomes of those that misbehave."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from rayhost.supervisor.hooks import Hooks
from tests.support.waiting import soon

URL = "http://127.0.0.1:1"


@pytest.fixture
def log() -> Iterator[list[EventDict]]:
    with capture_logs() as lines:
        yield lines


def script(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


def runs(pid: int) -> bool:
    """Return whether a process that is not ours to reap still does anything."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def written(path: Path) -> bool:
    return path.exists() and path.read_text().endswith("\n")


async def test_a_hook_is_run_without_a_shell_and_told_what_it_is_about(
    tmp_path: Path, log: list[EventDict]
) -> None:
    out = tmp_path / "out"
    text = (
        "import os, sys; names = 'HOOK', 'MODEL', 'URL', 'PID';"
        "open(sys.argv[1], 'w').write("
        "' '.join([sys.argv[2], *(os.environ['RAYHOST_' + name] for name in names)]) + '\\n')"
    )
    hooks = Hooks()
    hooks.fire("on_model_loaded", (*script(text), str(out), "$HOME;*"), model="tiny", url=URL)
    await soon(lambda: written(out), "the hook to write")
    assert out.read_text() == f"$HOME;* on_model_loaded tiny {URL} {os.getpid()}\n"
    await hooks.stop()
    assert log == []


async def test_a_hook_that_fails_leaves_the_end_of_its_complaint(log: list[EventDict]) -> None:
    hooks = Hooks()
    text = "import sys; sys.stderr.write('x' * 100_000 + 'at last'); sys.exit(3)"
    hooks.fire("on_ready", script(text), url=URL)
    await soon(lambda: log, "the log line")
    (line,) = log
    assert (line["event"], line["reason"]) == ("hook failed", "exit status 3")
    assert line["stderr"].endswith("at last")
    assert len(line["stderr"]) == 2000


@pytest.mark.parametrize("argv", [("/no/such/program",), ("/",), ("a\0b",)])
async def test_a_hook_that_cannot_start_is_one_log_line(
    argv: tuple[str, ...], log: list[EventDict]
) -> None:
    hooks = Hooks()
    hooks.fire("on_ready", argv, url=URL)
    await soon(lambda: log, "the log line")
    assert [line["event"] for line in log] == ["hook failed"]
    await hooks.stop()


async def test_no_command_is_no_hook(log: list[EventDict]) -> None:
    hooks = Hooks()
    hooks.fire("on_ready", (), url=URL)
    await hooks.stop()
    assert log == []


async def test_a_hook_without_end_is_killed_with_all_that_it_started(
    tmp_path: Path, log: list[EventDict]
) -> None:
    out = tmp_path / "pids"
    hooks = Hooks(timeout_s=0.5)
    hooks.fire("on_ready", ("sh", "-c", f"sleep 600 & echo $$ $! > {out}; wait"), url=URL)
    await soon(lambda: log, "the time-out")
    assert "not done after 0.5 s" in log[0]["reason"]
    pids = [int(pid) for pid in out.read_text().split()]
    await soon(lambda: not any(map(runs, pids)), "the end of both")


@pytest.mark.parametrize("politely", [True, False])
async def test_what_still_runs_at_the_end_is_killed(
    tmp_path: Path, log: list[EventDict], politely: bool
) -> None:
    out = tmp_path / "pid"
    hooks = Hooks()
    hooks.fire("on_ready", ("sh", "-c", f"trap '' TERM; echo $$ > {out}; sleep 600"), url=URL)
    await soon(lambda: written(out), "the hook to start")
    pid = int(out.read_text())
    if politely:
        await hooks.stop()
        assert not runs(pid)
        assert log == []
    else:
        hooks.kill()
        await soon(lambda: log, "its end")
        assert log[0]["reason"] == f"exit status {-signal.SIGKILL}"


async def test_a_hook_that_still_runs_for_a_model_is_not_started_again_for_it(
    tmp_path: Path, log: list[EventDict]
) -> None:
    hooks = Hooks()
    argv = ("sh", "-c", f"echo >> {tmp_path}/$RAYHOST_MODEL; sleep 600")
    for model in ("a", "a", "b"):
        hooks.fire("on_model_loaded", argv, model=model, url=URL)
    assert [(line["event"], line["model"]) for line in log] == [("hook still runs", "a")]
    await soon(lambda: all(written(tmp_path / name) for name in "ab"), "both to start")
    await hooks.stop()
    assert (tmp_path / "a").read_text() == "\n"


async def test_firing_does_not_wait(log: list[EventDict]) -> None:
    hooks = Hooks()
    loop = asyncio.get_running_loop()
    hooks.fire("on_ready", ("sleep", "600"), url=URL)
    turned = loop.create_future()
    loop.call_soon(turned.set_result, None)
    await turned
    await hooks.stop()
    assert log == []
