"""Where front and workers run: tables for the decisions."""

from typing import Literal

import pytest

from rayhost.errors import RayhostError
from rayhost.supervisor.pinning import Placement, Split, place, split
from rayhost.supervisor.topology import Topology
from tests.supervisor.machines import MACHINES

Choice = tuple[int, ...] | Literal["auto"]
Threads = int | Literal["auto"]
EIGHT = tuple(range(8))
AUTO: Literal["auto"] = "auto"


@pytest.mark.parametrize(
    ("machine", "front", "workers", "found"),
    [
        ("one CPU", AUTO, AUTO, Split((0,), (0,))),
        ("two CPUs", AUTO, AUTO, Split((0, 1), (0, 1))),
        ("four cores of two threads", AUTO, AUTO, Split(EIGHT, EIGHT)),
        ("two nodes", AUTO, AUTO, Split(EIGHT, EIGHT)),
        # A list leaves the rest to the other ...
        ("two CPUs", (0,), AUTO, Split((0,), (1,))),
        ("two CPUs", AUTO, (1,), Split((0,), (1,))),
        ("four cores of two threads", AUTO, (0, 1, 2), Split((3, 4, 5, 6, 7), (0, 1, 2))),
        # ... to workers in whole cores, where one is left.
        ("four cores of two threads", (0,), AUTO, Split((0,), (1, 2, 3, 5, 6, 7))),
        ("four cores of two threads", (4, 0), AUTO, Split((0, 4), (1, 2, 3, 5, 6, 7))),
        ("one core of two threads", (0,), AUTO, Split((0,), (1,))),
        ("four cores of two threads", (0, 1, 2, 3), AUTO, Split((0, 1, 2, 3), (4, 5, 6, 7))),
        # Where nothing is left it is shared.
        ("one CPU", (0,), AUTO, Split((0,), (0,))),
        ("one CPU", AUTO, (0,), Split((0,), (0,))),
        ("two CPUs", (0, 1), AUTO, Split((0, 1), (0, 1))),
        ("two CPUs", (1, 0), (1,), Split((0, 1), (1,))),
    ],
)
def test_front_and_workers_share_unless_one_is_given_a_list(
    machine: str, front: Choice, workers: Choice, found: Split
) -> None:
    assert split(MACHINES[machine], front, workers) == found


@pytest.mark.parametrize(
    ("front", "workers", "why"),
    [((0, 4), AUTO, r"cpus\.front names \[4\]"), (AUTO, (9,), r"cpus\.workers names \[9\]")],
)
def test_a_list_that_is_not_allowed_is_named(front: Choice, workers: Choice, why: str) -> None:
    with pytest.raises(RayhostError, match=rf"{why}, but this process may use \[0, 1\]"):
        split(MACHINES["two CPUs"], front, workers)


@pytest.mark.parametrize(
    ("machine", "cpus", "threads", "placed"),
    [
        ("one CPU", AUTO, AUTO, Placement((0,), 1, 1)),
        ("two CPUs", AUTO, AUTO, Placement((0, 1), 2, 2)),
        ("one core of two threads", AUTO, AUTO, Placement((0, 1), 1, 1)),
        ("four cores of two threads", AUTO, AUTO, Placement(EIGHT, 4, 4)),
        ("four cores of two threads", (0, 4), AUTO, Placement((0, 4), 1, 1)),
        ("four cores of two threads", (0, 1), AUTO, Placement((0, 1), 2, 2)),
        ("four cores of two threads", AUTO, 7, Placement(EIGHT, 7, 4)),
        ("four cores of two threads", (0, 4), 2, Placement((0, 4), 2, 1)),
        ("two nodes", AUTO, AUTO, Placement((0, 1, 4, 5), 2, 2)),
        ("two nodes", (1, 2), AUTO, Placement((1, 2), 2, 2)),  # as the operator says
    ],
)
def test_a_worker_has_a_thread_for_each_core_of_a_node(
    machine: str, cpus: Choice, threads: Threads, placed: Placement
) -> None:
    assert place("tiny", cpus, threads, topology=MACHINES[machine]) == placed


def test_models_take_turns_with_the_nodes_the_larger_first() -> None:
    placed = [
        place("tiny", "auto", "auto", topology=MACHINES["two nodes"], pool=(1, 2, 3, 6), turn=turn)
        for turn in range(3)
    ]
    assert [one.cpus for one in placed] == [(2, 3, 6), (1,), (2, 3, 6)]


@pytest.mark.parametrize(
    ("quota", "threads"), [(0.5, 1), (1.0, 1), (1.5, 1), (2.0, 2), (3.9, 3), (64.0, 4)]
)
def test_threads_never_exceed_the_cores_of_a_quota(quota: float, threads: int) -> None:
    four = Topology(frozenset(range(4)))
    placed = place("tiny", "auto", "auto", topology=four, quota=quota)
    assert (placed.cpus, placed.threads) == ((0, 1, 2, 3), threads)
    assert place("tiny", "auto", 3, topology=four, quota=quota).threads == min(3, threads)
    assert place("tiny", "auto", 9, topology=four).threads == 9  # nobody stops them


def test_a_cpu_that_this_process_may_not_use_is_named_with_those_it_may() -> None:
    with pytest.raises(RayhostError, match=r"'tiny': cpus names \[4, 9\].* may use \[0, 1\]"):
        place("tiny", (0, 4, 9), "auto", topology=MACHINES["two CPUs"])
