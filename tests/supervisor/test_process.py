"""One worker process: that its end is told, and that nothing is left when it cannot be watched."""

import asyncio
import errno
import os

import pytest

from rayhost.ipc.channel import create
from rayhost.supervisor.process import Process, describe_exit
from tests.supervisor.kept import workers


@pytest.mark.parametrize(
    ("code", "text"), [(0, "exit status 0"), (70, "exit status 70"), (-9, "killed by SIGKILL")]
)
def test_an_exit_is_told_in_words(code: int, text: str) -> None:
    assert describe_exit(code) == text


async def test_a_death_is_told_once_and_the_process_is_reaped() -> None:
    fds = set(os.listdir("/proc/self/fd"))
    codes: list[int] = []
    end, child = create(1)
    process = Process("tiny", child, codes.append)
    process.kill()
    await asyncio.wait_for(process.exited.wait(), 30)
    process.kill()  # harmless
    end.close()
    assert codes == [-9]
    assert workers() == []
    assert set(os.listdir("/proc/self/fd")) == fds


async def test_a_process_that_cannot_be_watched_is_not_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_descriptor_left(_pid: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    fds = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "pidfd_open", no_descriptor_left)
    end, child = create(1)
    with pytest.raises(OSError, match="Too many open files"):
        Process("tiny", child, lambda _code: None)
    end.close()
    assert workers() == []
    assert set(os.listdir("/proc/self/fd")) == fds
