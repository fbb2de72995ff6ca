"""What the kernel tells of CPUs, from recorded trees of it, and of this machine."""

import os
from pathlib import Path

import pytest

from rayhost.supervisor.topology import Topology, named, read
from tests.supervisor.machines import MACHINES, write


@pytest.mark.parametrize("name", MACHINES)
def test_cores_and_nodes_are_read_as_they_are(name: str, tmp_path: Path) -> None:
    write(tmp_path, name)
    found = read(MACHINES[name].allowed, tmp_path)
    assert found == MACHINES[name]


def test_what_the_kernel_hides_is_one_node_of_cores(tmp_path: Path) -> None:
    found = read({0, 1}, tmp_path)
    assert found == Topology(frozenset({0, 1}))
    assert found.cores({0, 1}) == 2
    assert found.nodes({1, 0}) == [(0, 1)]


def test_cpus_that_are_not_allowed_are_not_there(tmp_path: Path) -> None:
    write(tmp_path, "two nodes")
    found = read({1, 2}, tmp_path)
    assert found.allowed == {1, 2}
    assert found.node_of == {1: 0, 2: 1}


@pytest.mark.parametrize(
    ("cpulist", "cpus"),
    [("0\n", {0}), ("0-3\n", {0, 1, 2, 3}), ("0-1,8,10-11", {0, 1, 8, 10, 11}), ("\n", set())],
)
def test_lists_of_the_kernel(cpulist: str, cpus: set[int]) -> None:
    assert named(cpulist) == cpus


def test_this_machine_is_read() -> None:
    found = read()
    assert found.allowed == os.sched_getaffinity(0)
    assert set(found.core_of) <= found.allowed
    assert 1 <= found.cores(found.allowed) <= len(found.allowed)
