"""Work in a child process: llama.cpp may abort, and its memory is measured, so it runs in no other.

`run` is the parent's side and `begin` and `emit` are the child's. Invariant: no child outlives the
call that started it, nor the process that called.
"""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator
from typing import IO, Any, TypeVar

import msgspec

from rayhost.errors import RayhostError
from rayhost.supervisor.process import describe_exit
from rayhost.threads import ENVIRONMENT

_PR_SET_PDEATHSIG = 1
_LAST_WORDS = 300  # bytes of a dead child's standard error that are quoted
_Answer = TypeVar("_Answer")


class ChildFailed(RayhostError):
    """A child could not do its work: llama.cpp refused, crashed or took too long."""


def run(
    module: str,
    task: msgspec.Struct,
    answers: msgspec.json.Decoder[_Answer],
    *,
    last: type[msgspec.Struct],
    refusal: type[msgspec.Struct],
    timeout_s: float,
) -> Generator[_Answer, None, None]:
    """Run `python -m module` on a task and yield its answers, the `last` one included.

    `answers` decodes the union of what may come. Raises ChildFailed when a `refusal` comes, whose
    `reason` is told, and when the child ends without the `last` answer or after `timeout_s`.
    """
    order = msgspec.json.encode(task).decode()
    command = [sys.executable, "-m", module, order, str(os.getpid())]
    environment = {**ENVIRONMENT, **os.environ}  # as a worker has it: what is measured is served so
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=environment,
        ) as child,
    ):
        late = threading.Event()

        def too_late() -> None:
            late.set()
            child.kill()

        watchdog = threading.Timer(timeout_s, too_late)
        watchdog.daemon = True
        watchdog.start()
        complete = False
        try:
            for line in child.stdout or ():
                got = answers.decode(line)
                if isinstance(got, refusal):
                    raise ChildFailed(str(getattr(got, "reason", got)))
                complete = isinstance(got, last)
                yield got
        except msgspec.DecodeError as error:
            raise ChildFailed(f"{module} answered nonsense: {error}") from error
        finally:
            watchdog.cancel()
            child.kill()
            code = child.wait()
        if late.is_set():
            raise ChildFailed(f"{module} was not done after {timeout_s:.0f} s")
        if not complete:
            raise ChildFailed(f"{module} ended early: {_how(code, complaints)}")


def begin() -> str:
    """Bind this process to its parent and return its task, as JSON."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[2]):  # it died while this process imported, unseen by prctl
        raise SystemExit("the process that started this one is gone")
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent tells of an interrupt
    return sys.argv[1]


def emit(answer: msgspec.Struct) -> None:
    """Send one answer to the parent."""
    sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
    sys.stdout.flush()


def _how(code: int, complaints: IO[Any]) -> str:
    complaints.seek(0, os.SEEK_END)
    complaints.seek(max(0, complaints.tell() - _LAST_WORDS))
    words = complaints.read().decode(errors="replace").strip().splitlines()
    return describe_exit(code) + (f": {words[-1]}" if words else "")
