"""Readings on recorded files: v2, v1, a container that sees its host; and on this very machine."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rayhost.governor.cgroups import Throttle
from rayhost.governor.readings import (
    CpuReadings,
    Kernel,
    Pressure,
    Readings,
    count_cpus,
    parse_pressure,
)

RECORDED = Path(__file__).parent / "recorded"


def read(name: str) -> Readings:
    return Kernel(RECORDED / name).read()


def cpu(name: str) -> CpuReadings:
    return Kernel(RECORDED / name).cpu()


def test_v2_takes_the_tightest_limit_on_the_way_up() -> None:
    found = read("v2")  # the service has none, the slice above it has 1 GiB
    assert (found.limit, found.cgroup) == (1 << 30, True)
    assert found.used == 905_969_664 - 268_435_456  # without what the kernel can drop for nothing
    assert found.cached == 301_989_888  # weights in use: still there after a restart
    assert found.room == found.limit - found.used + found.cached


def test_v2_quota_and_throttling() -> None:
    found = cpu("v2")
    assert read("v2").cores == found.cores == 0.5  # of four CPUs
    assert found.throttle == Throttle(731, 22_110_345_000)
    assert found.stolen_s == 812 / os.sysconf("SC_CLK_TCK")


def test_throttling_is_read_where_the_quota_is(tmp_path: Path) -> None:
    shutil.copytree(RECORDED / "v2", tmp_path / "v2")
    slice_ = tmp_path / "v2/sys/fs/cgroup/system.slice"
    (slice_ / "rayhost.service/cpu.max").write_text("max 100000\n")
    (slice_ / "cpu.stat").write_text("nr_periods 40\nnr_throttled 9\nthrottled_usec 7000\n")
    assert Kernel(tmp_path / "v2").cpu().throttle == Throttle(0, 0)  # nobody sets one
    (slice_ / "cpu.max").write_text("150000 100000\n")
    found = Kernel(tmp_path / "v2").cpu()
    assert (found.cores, found.throttle) == (1.5, Throttle(9, 7_000_000))


def test_v2_pressure_is_the_groups_own_and_not_the_machines() -> None:
    assert read("v2").memory == Pressure(0.025, 0.0125)
    assert cpu("v2").pressure == Pressure(0.61, 0.0)


def test_v1_takes_the_group_with_the_least_room() -> None:
    found = read("v1")
    assert found.limit == 768 << 20
    assert found.used == 400_000_000  # of the parent: it holds another 40 MB
    assert found.cgroup


def test_v1_quota_may_be_shared_by_controllers_of_one_mount() -> None:
    found = cpu("v1")
    assert found.cores == 1.5
    assert found.throttle == Throttle(4, 5_000_000)


def test_without_pressure_figures_there_is_none() -> None:
    assert read("v1").memory is None


MACHINE = "full avg10=50.00 avg60=1.00 avg300=0.10 total=100\n"


@pytest.mark.parametrize(
    ("recorded", "removed", "stalled"),
    [
        # v1 keeps none by group: what the machine stalls on is a neighbour's shortage.
        ("v1", (), None),
        ("container", (), None),
        # No group has a limit, so the machine's is ours as well.
        ("v1", ("memory/vps/box/memory.limit_in_bytes", "memory/vps/memory.limit_in_bytes"), 0.5),
        # v2: the own group's, whichever group on the way up has the limit.
        ("v2", (), 0.0125),
        ("v2", ("system.slice/memory.max",), 0.0125),
        # A kernel that keeps it for the machine alone.
        ("v2", ("system.slice/rayhost.service/memory.pressure",), None),
        (
            "v2",
            ("system.slice/rayhost.service/memory.pressure", "system.slice/memory.max"),
            0.5,
        ),
    ],
)
def test_pressure_on_memory_is_of_whom_the_limit_holds_for(
    tmp_path: Path, recorded: str, removed: tuple[str, ...], stalled: float | None
) -> None:
    shutil.copytree(RECORDED / recorded, tmp_path / "box")
    (tmp_path / "box/proc/pressure").mkdir(exist_ok=True)
    (tmp_path / "box/proc/pressure/memory").write_text(MACHINE)
    for name in removed:
        (tmp_path / "box/sys/fs/cgroup" / name).unlink()
    found = Kernel(tmp_path / "box").read().memory
    assert (None if found is None else found.full) == stalled


def test_in_a_container_the_group_decides_and_not_the_hosts_meminfo() -> None:
    found = read("container")
    assert (found.limit, found.used, found.cgroup) == (512 << 20, 150_000_000, True)
    assert found.room == (512 << 20) - 150_000_000
    assert found.cores == 2


def test_a_host_with_less_left_than_the_group_allows_decides() -> None:
    found = read("container")
    tight = replace(found, available=1000)
    assert tight.room == 1000


def test_a_limit_beyond_the_machine_is_none(tmp_path: Path) -> None:
    proc, group = tmp_path / "proc/self", tmp_path / "sys/fs/cgroup"
    proc.mkdir(parents=True)
    group.mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 400 kB\n")
    (proc / "cgroup").write_text("0::/\n")
    (proc / "mountinfo").write_text("29 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    (group / "cgroup.controllers").write_text("memory\n")
    (group / "memory.max").write_text(f"{1 << 40}\n")
    (group / "memory.current").write_text("0\n")
    found = Kernel(tmp_path).read()
    assert (found.limit, found.used, found.cgroup) == (1_024_000, 614_400, False)


def test_reclaim_that_begins_below_the_limit_is_the_limit(tmp_path: Path) -> None:
    shutil.copytree(RECORDED / "v2", tmp_path / "v2")
    slice_ = tmp_path / "v2/sys/fs/cgroup/system.slice"
    (slice_ / "memory.max").write_text(f"{400 << 20}\n")
    (slice_ / "memory.high").write_text(f"{300 << 20}\n")
    assert Kernel(tmp_path / "v2").read().limit == 300 << 20
    (slice_ / "memory.high").write_text("max\n")
    assert Kernel(tmp_path / "v2").read().limit == 400 << 20


def test_a_machine_without_any_of_the_files_is_read_too(tmp_path: Path) -> None:
    found = Kernel(tmp_path).read()
    assert (found.limit, found.room, found.memory, found.cgroup) == (0, 0, None, False)
    assert found.cores >= 1


def test_a_process_is_read_whatever_its_name() -> None:
    found = Kernel(RECORDED / "process").process(77)
    assert found is not None
    assert found.resident == 528_100 << 10
    assert (found.anonymous, found.shared) == (412_200 << 10, 300 << 10)
    assert (found.peak, found.major_faults) == (540_236 << 10, 17)


@pytest.mark.parametrize("pid", [78, 79])
def test_a_zombie_and_a_process_that_is_gone_hold_nothing(pid: int) -> None:
    assert Kernel(RECORDED / "process").process(pid) is None


def test_children_of_every_thread_are_found(tmp_path: Path) -> None:
    for thread, children in (("7", "8 9 "), ("10", ""), ("11", "12 ")):
        task = tmp_path / "proc/7/task" / thread
        task.mkdir(parents=True)
        (task / "children").write_text(children)
    assert sorted(Kernel(tmp_path).children(7)) == [8, 9, 12]
    assert Kernel(tmp_path).children(13) == []


def test_this_machine_is_plausible() -> None:
    kernel = Kernel()
    box, own = kernel.read(), kernel.process("self")
    assert own is not None
    assert 0 < own.anonymous <= own.resident < box.limit
    assert 0 < box.room < box.limit
    assert 0 < box.cores <= 4096


@pytest.mark.parametrize(
    ("listed", "count"), [("0", 1), ("0-3", 4), ("0-2,5", 4), ("1,3,8-9\n", 4), ("", 1)]
)
def test_lists_of_cpus_are_counted(listed: str, count: int) -> None:
    assert count_cpus(listed) == count


def test_pressure_that_is_not_there_is_not_zero() -> None:
    assert parse_pressure("") is None
    assert parse_pressure("some avg10=1.00 total=5\n") == Pressure(0.01, 0.0)


def test_the_kernels_kills_are_counted_in_both_hierarchies() -> None:
    assert (read("v1").kills, read("v2").kills, read("container").kills) == (2, 3, 0)
