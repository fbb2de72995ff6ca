"""The channel as it is used: a worker that inherited it, under load, and killed in the middle."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rayhost.ipc.channel import CorruptFrame, End, Frame, create
from rayhost.ipc.status import Word
from tests.ipc.peer import BACKLOG, BURST, KIND, payload, wait

ROOT = Path(__file__).parents[2]


@contextmanager
def peer(mode: str, ring_bytes: int = 256 * 1024) -> Iterator[tuple[End, subprocess.Popen[bytes]]]:
    """A peer process and this process's end; the peer has ended well unless it was killed."""
    end, child = create(os.getpid(), ring_bytes)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.ipc.peer", mode, child.to_arg()],
        pass_fds=child.fds,
        stdin=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        child.close()
        try:
            yield end, process
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(30) in (0, -9)
        finally:
            process.kill()
            end.close()


def exchange(end: End, messages: list[Frame]) -> list[Frame]:
    """Send everything, as fast as it goes, and return as many messages as were sent."""
    got: list[Frame] = []
    sent = 0
    while len(got) < len(messages):
        while sent < len(messages) and end.sender.waiting_bytes < BACKLOG:
            for message in messages[sent : sent + BURST]:
                end.sender.send(*message)
            sent += BURST
            end.sender.flush()
        assert wait(end, True), "the peer went quiet"
        end.sender.on_space()
        got += end.receiver.receive(64)
    return got


def test_100_000_messages_go_both_ways_unchanged_and_in_order() -> None:
    messages = [Frame(n % 256, n, payload(n)) for n in range(100_000)]
    with peer("echo") as (end, _):
        assert exchange(end, messages) == messages
        assert end.status[Word.STEP] == len(messages)


def test_messages_larger_than_the_ring_go_both_ways() -> None:
    messages = [Frame(1, n, bytes([n]) * size) for n, size in enumerate((0, 5_000, 3_000_000, 1))]
    with peer("echo", ring_bytes=4096) as (end, _):
        assert exchange(end, messages) == messages


@pytest.mark.parametrize("after", [1, 500, 5_000, 20_000])
def test_a_peer_killed_in_the_middle_leaves_only_whole_messages(after: int) -> None:
    with peer("stream", ring_bytes=16 * 1024) as (end, process):
        got: list[Frame] = []

        def receive(limit: int) -> None:
            for frame in end.receiver.receive(limit):
                assert frame == (KIND, len(got), payload(len(got)))
                got.append(frame)

        while len(got) < after:
            assert wait(end, True), "the peer went quiet"
            receive(7)
        process.kill()
        process.wait()

        receive(7)
        while end.receiver.more:  # everything announced is whole
            receive(7)

        # Past the announcements lie frames that the peer had no time to finish or announce. Were
        # they announced, each would be the right next message or corrupt.
        def announce_all() -> None:
            for _ in range(16 * 1024):
                os.eventfd_write(end.receiver.data_fd, 1)
                receive(1)

        with pytest.raises(CorruptFrame):
            announce_all()


def test_the_memory_goes_with_the_last_process() -> None:
    with peer("echo") as (end, process):
        assert exchange(end, [Frame(1, 1, b"x")])
        maps = Path(f"/proc/{process.pid}/maps")
        assert "memfd:rayhost" in maps.read_text()
        process.kill()
        process.wait()
        end.close()
        assert "memfd:rayhost" not in Path("/proc/self/maps").read_text()
        links = [os.readlink(fd.path) for fd in os.scandir("/proc/self/fd") if os.path.lexists(fd)]
        assert not [link for link in links if "rayhost" in link]
