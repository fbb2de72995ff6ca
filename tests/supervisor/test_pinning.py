"""Where workers run: a table for the decision, this machine for what is read."""

import os
from collections.abc import Mapping
from typing import Literal

import pytest

from rayhost.errors import RayhostError
from rayhost.supervisor.pinning import Placement, allowed_cpus, cores, place

Cpus = tuple[int, ...] | Literal["auto"]
Threads = int | Literal["auto"]
HYPERTHREADS = {0: "0,2", 2: "0,2", 1: "1,3", 3: "1,3"}


@pytest.mark.parametrize(
    ("cpus", "threads", "core_of", "placed"),
    [
        ("auto", "auto", {}, Placement((0, 1, 2, 3), 4)),  # the kernel tells nothing
        ("auto", "auto", HYPERTHREADS, Placement((0, 1, 2, 3), 2)),
        ((0, 2), "auto", HYPERTHREADS, Placement((0, 2), 1)),
        ((0, 1), "auto", HYPERTHREADS, Placement((0, 1), 2)),
        ((3,), "auto", {}, Placement((3,), 1)),
        ("auto", 7, HYPERTHREADS, Placement((0, 1, 2, 3), 7)),
        ((0, 2), 2, HYPERTHREADS, Placement((0, 2), 2)),
        ((0, 1), "auto", {0: "0"}, Placement((0, 1), 2)),  # known for some only
    ],
)
def test_auto_is_every_allowed_cpu_and_a_thread_for_each_core(
    cpus: Cpus, threads: Threads, core_of: Mapping[int, str], placed: Placement
) -> None:
    allowed = frozenset(range(4))
    found = place("tiny", cpus, threads, allowed=allowed, core_of=core_of)
    assert (found.cpus, found.threads) == (placed.cpus, placed.threads)


@pytest.mark.parametrize(
    ("quota", "threads"), [(0.5, 1), (1.0, 1), (1.5, 1), (2.0, 2), (3.9, 3), (64.0, 4)]
)
def test_threads_never_exceed_the_cores_of_a_quota(quota: float, threads: int) -> None:
    allowed = frozenset(range(4))
    placed = place("tiny", "auto", "auto", allowed=allowed, core_of={}, quota=quota)
    assert (placed.cpus, placed.threads) == ((0, 1, 2, 3), threads)
    assert place("tiny", "auto", 3, allowed=allowed, core_of={}, quota=quota).threads == 3


def test_a_cpu_that_this_process_may_not_use_is_named_with_those_it_may() -> None:
    with pytest.raises(RayhostError, match=r"'tiny': cpus names \[4, 9\].* may use \[0, 1\]"):
        place("tiny", (0, 4, 9), "auto", allowed=frozenset({1, 0}), core_of={})


def test_the_kernel_is_asked() -> None:
    allowed = allowed_cpus()
    assert allowed == os.sched_getaffinity(0)
    assert set(cores(allowed)) <= allowed
