"""Memory figures from /proc."""

import os
import subprocess
import sys

import psutil
import pytest

from rayhost import procfs


def test_resident_memory_is_what_psutil_says() -> None:
    assert procfs.rss_bytes(os.getpid()) == pytest.approx(
        psutil.Process().memory_info().rss, rel=0.1
    )


def test_a_process_that_is_gone_has_none() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert procfs.rss_bytes(process.pid) == 0


def test_what_is_available_is_a_part_of_the_machine() -> None:
    assert 0 < procfs.available_bytes() < psutil.virtual_memory().total


def test_a_process_is_pinned_with_the_threads_that_it_has() -> None:
    program = (
        "import os, threading\n"
        "from rayhost import procfs\n"
        "cpu = min(os.sched_getaffinity(0))\n"
        "done = threading.Event()\n"
        "threading.Thread(target=done.wait).start()\n"
        "procfs.pin([cpu])\n"
        "threads = os.listdir('/proc/self/task')\n"
        "found = [os.sched_getaffinity(int(one)) for one in threads]\n"
        "done.set()\n"
        "assert len(found) == 2 and found == [{cpu}] * 2, found\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
