"""A real worker process on a channel, driven from a test as the front would."""

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from rayhost.ipc.channel import End, create
from rayhost.ipc.messages import Load, Message, decode, encode

PATIENCE_S = 60.0
Expected = TypeVar("Expected", bound=Message)


def load_of(path: Path, **changes: Any) -> Load:
    """Return a Load for a small context on the first CPU this process may use."""
    options = Load(
        name="tiny",
        path=str(path),
        context=256,
        concurrency=4,
        batch=128,
        threads=1,
        cpus=(min(os.sched_getaffinity(0)),),
        kv_type="f16",
        kv_layout="unified",
        inter_token_ms=50,
        log_format="json",
    )
    return msgspec.structs.replace(options, **changes)


class Worker:
    """The process, the front's end of its channel, and its doorbell as a saboteur would ring it."""

    def __init__(self, process: subprocess.Popen[str], end: End, doorbell: int) -> None:
        self.process = process
        self.end = end
        self.doorbell = doorbell
        self._early: list[tuple[int, Message]] = []

    def send(self, request_id: int, message: Message) -> None:
        """Send a message, however large."""
        kind, payload = encode(message)
        self.end.sender.send(kind, request_id, payload)
        while not self.end.sender.flush():
            self._wait(self.end.sender.space_fd)
            self.end.sender.on_space()

    def receive(self) -> tuple[int, Message]:
        """Return the next message."""
        while not self._early:
            self._wait(self.end.receiver.data_fd)
            for kind, request_id, payload in self.end.receiver.receive(64):
                self._early.append((request_id, decode(kind, payload)))
        return self._early.pop(0)

    def expect(self, request_id: int, kind: type[Expected]) -> Expected:
        """Return the next message, which is of this kind for this request."""
        sender, message = self.receive()
        assert sender == request_id
        assert isinstance(message, kind), message
        return message

    def exit_status(self) -> int:
        """Wait for the end of the process."""
        return self.process.wait(PATIENCE_S)

    def complaint(self) -> str:
        """Return what an ended process wrote to stderr."""
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def _wait(self, fd: int) -> None:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if not poll.poll(PATIENCE_S * 1000):
            raise TimeoutError(f"the worker is silent; its exit status is {self.process.poll()}")


@contextmanager
def worker(
    parent_pid: int | None = None, program: tuple[str, ...] = ("-m", "rayhost.worker")
) -> Iterator[Worker]:
    """Start a worker that waits for its Load; whatever is left of it at the end is killed."""
    end, child = create(os.getpid())
    doorbell = os.dup(child.fds[1])
    arguments = ["tiny", child.to_arg(), str(parent_pid or os.getpid())]
    with subprocess.Popen(
        [sys.executable, *program, *arguments],
        pass_fds=child.fds,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        child.close()
        try:
            yield Worker(process, end, doorbell)
        finally:
            process.kill()
            end.close()
            os.close(doorbell)
