"""The worker's end of the child that reads sources first (`engine.grammar_check`). For one thread.

Invariant: `check` returns or raises within `MAX_S`, and a child that did not survive a source is
replaced for the next one.
"""

import json
import select
import signal
import subprocess
import sys
import weakref
from typing import IO

from rayhost import clock
from rayhost.engine import grammar_check
from rayhost.ipc.messages import Constraint

MAX_S = 30  # until the child answers; it has less time of a CPU, which others may need too


class Checker:
    """A child that is started when there is something to check."""

    def __init__(self, idle_s: float = grammar_check.IDLE_S) -> None:
        self._idle_s = idle_s
        self._child: subprocess.Popen[bytes] | None = None

    def check(self, constraint: Constraint, cpu_s: float) -> str:
        """Return a constraint in llguidance's words, which can be compiled.

        Raises Invalid, and Unfinished where that would take more than so many seconds of a CPU.
        """
        asked = (constraint.kind, constraint.source, cpu_s)
        question = json.dumps(asked).encode("ascii") + b"\n"
        answer = b""
        for again in (True, False):
            child = self._child = self._child or self._start()
            answer = _ask(child, question)
            if answer:
                break
            self._child = None
            status = _end(child)
            if status != 0 or not again:  # 0: nobody had asked it for a while
                kind = grammar_check.Invalid
                if status == -signal.SIGPROF:
                    kind = grammar_check.Unfinished
                raise kind(
                    "it is too complex: compiling it takes more than "
                    f"{cpu_s:g} s, or too much memory"
                )
        grammar, error = json.loads(answer)
        if error:
            raise grammar_check.Invalid(error)
        return str(grammar)

    def _start(self) -> "subprocess.Popen[bytes]":
        child = subprocess.Popen(
            [sys.executable, "-m", grammar_check.__name__, str(self._idle_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        weakref.finalize(self, _end, child)  # that of a worker that is killed ends with its input
        return child


def _ask(child: "subprocess.Popen[bytes]", question: bytes) -> bytes:
    """Return a line, or nothing from a child that ended or has to be."""
    stdin, stdout = _pipes(child)
    give_up_ns = clock.now_ns() + MAX_S * 10**9
    try:
        view = memoryview(question)
        while view:
            view = view[stdin.write(view) :]
    except BrokenPipeError:
        return b""
    answer = bytearray()
    while not answer.endswith(b"\n"):
        wait_s = (give_up_ns - clock.now_ns()) / 1e9
        part = b""
        if wait_s > 0 and select.select([stdout], [], [], wait_s)[0]:
            part = stdout.read(1 << 16)
        if not part:
            return b""
        answer += part
    return bytes(answer)


def _end(child: "subprocess.Popen[bytes]") -> int:
    """End a child that gave no answer; return its exit status."""
    for pipe in _pipes(child):
        pipe.close()
    try:
        return child.wait(0.5)  # one that ended by itself says of what
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


def _pipes(child: "subprocess.Popen[bytes]") -> tuple[IO[bytes], IO[bytes]]:
    if child.stdin is None or child.stdout is None:
        raise RuntimeError("a checker has pipes")
    return child.stdin, child.stdout
