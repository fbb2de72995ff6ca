"""The other process of the two-process tests: `python -m tests.ipc.peer MODE CHANNEL`.

`echo` returns every message; `stream` sends `payload(0)`, `payload(1)`, ... for ever. Either ends
when its stdin does, so that a test that dies leaves no process.
"""

import select
import sys
from collections.abc import Callable

from rayhost.ipc.channel import ChildFds, End, attach
from rayhost.ipc.status import Word

KIND = 9
BURST = 16  # messages for each doorbell
BACKLOG = 64 * 1024  # bytes waiting at which a sender stops adding more


def payload(n: int) -> bytes:
    """The payload of message `n`: 0 to 699 bytes that no other message has (but the empty ones)."""
    return (n.to_bytes(8, "little") * 88)[: n * 37 % 700]


def wait(end: End, readable: bool, *others: int) -> set[int]:
    """Block until the channel or another fd needs attention; return the ready fds."""
    poll = select.poll()
    watched = list(others)
    if readable:
        watched.append(end.receiver.data_fd)
    if end.sender.waiting_bytes:
        watched.append(end.sender.space_fd)
    for fd in watched:
        poll.register(fd, select.POLLIN)
    return {fd for fd, _ in poll.poll(30_000)}


def echo(end: End) -> None:
    """Send back what comes, and stop reading while too much of it waits."""
    while True:
        reading = end.sender.waiting_bytes < BACKLOG
        ready = wait(end, reading, sys.stdin.fileno())
        if not ready or sys.stdin.fileno() in ready:
            return
        if reading:
            for frame in end.receiver.receive(BURST):
                end.sender.send(*frame)
                end.status[Word.STEP] += 1
        end.sender.on_space()


def stream(end: End) -> None:
    """Send numbered messages as fast as they are read."""
    n = 0
    while True:
        while end.sender.waiting_bytes < BACKLOG:
            for _ in range(BURST):
                end.sender.send(KIND, n, payload(n))
                n += 1
            end.sender.flush()
        ready = wait(end, False, sys.stdin.fileno())
        if not ready or sys.stdin.fileno() in ready:
            return
        end.sender.on_space()


def main(mode: str, channel: str) -> None:
    """Attach, run, let go."""
    modes: dict[str, Callable[[End], None]] = {"echo": echo, "stream": stream}
    end = attach(ChildFds.from_arg(channel))
    modes[mode](end)
    end.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
