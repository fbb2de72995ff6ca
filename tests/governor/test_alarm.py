"""The kernel's word that memory is short, in a group that the test makes short of it."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.memory_group import MemoryGroup, may_limit
from rayhost.governor import alarm
from rayhost.governor.readings import Kernel

TAKE = "import sys; taken = bytearray(int(sys.argv[1])); sys.stdin.read()"


class InGroup(Kernel):
    """A kernel as a process in another group sees it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        assert self._memory is not None
        self._memory = type(self._memory)(1, (folder,))


@pytest.mark.skipif(not may_limit(), reason="needs root and the v1 memory hierarchy")
async def test_reclaim_in_the_group_is_heard() -> None:
    with MemoryGroup(64 << 20) as group:
        heard = asyncio.Event()
        with alarm.raised(InGroup(group.folder), heard.set) as hears:
            assert hears
            taking = await asyncio.to_thread(
                subprocess.Popen,
                [*group.prefix, sys.executable, "-c", TAKE, str(200 << 20)],
                stdin=subprocess.PIPE,
            )
            try:
                await asyncio.wait_for(heard.wait(), 30)
            finally:
                taking.kill()
                await asyncio.to_thread(taking.communicate)


async def test_where_nothing_can_be_heard_nothing_is_left_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with alarm.raised(Kernel(tmp_path), pytest.fail) as hears:
        assert not hears
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.skipif(not os.access("/proc/pressure/memory", os.W_OK), reason="needs PSI")
async def test_the_machines_pressure_is_listened_to_where_there_is_no_group(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/pressure").symlink_to("/proc/pressure")
    with alarm.raised(Kernel(tmp_path), lambda: None) as hears:
        assert hears
