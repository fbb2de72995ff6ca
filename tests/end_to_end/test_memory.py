"""A whole host in a control group too small for it: nobody is killed, everybody answered."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import traffic
from bench.load import Load, Plan
from bench.measure import generate
from bench.memory_group import MemoryGroup, may_limit, uncached
from bench.squeeze import profile_of, state_of, take, watching
from rayhost.governor.costs import MIB
from tests.support.host import Host, started
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not may_limit(), reason="needs root and the v1 memory hierarchy"),
]
LIMIT = 768 * MIB
CLIENTS = 8


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    with MemoryGroup(LIMIT) as made:
        yield made


def ask(host: Host, sent: traffic.Traffic) -> Load:
    return generate(Plan(host.url, "smollm2-135m", sent, 500.0))


def failed(load: Load) -> list[str]:
    return [f"{one.error} {one.detail}" for one in load.outcomes if one.error]


def test_long_prompts_of_many_clients_are_answered_within_the_limit(
    tmp_path: Path, smollm2: Path, group: MemoryGroup
) -> None:
    profile = profile_of(tmp_path, uncached(smollm2))
    sent = traffic.make("long", CLIENTS, 1, "memory")  # each 1,500 tokens: 25 s on a slow CPU
    with started(profile, tmp_path / "home", prefix=group.prefix) as host:
        (worker,) = host.workers()
        with watching(group) as samples:
            load = ask(host, sent)
        assert (len(load.outcomes), failed(load)) == (CLIENTS, [])
        assert min(one.prompt_tokens for one in load.outcomes) > 1400
        assert group.kills == 0
        assert host.workers() == [worker]
        assert max(sample.working_set for sample in samples) < LIMIT


def test_what_another_takes_is_given_up_and_taken_again_without_a_failed_request(
    tmp_path: Path, smollm2: Path, group: MemoryGroup
) -> None:
    profile = profile_of(tmp_path, uncached(smollm2), calm_s=2.0, dwell_s=1.0)
    sent = traffic.make("unique", CLIENTS, 10, "memory")
    with started(profile, tmp_path / "home", prefix=group.prefix) as host:
        begin = state_of(tmp_path).models[0].concurrency
        loads: list[Load] = []
        asking = threading.Thread(target=lambda: loads.append(ask(host, sent)))
        asking.start()
        try:
            with watching(group, lambda: state_of(tmp_path)) as samples:
                eventually(lambda: state_of(tmp_path).models[0].active > 1, "load")
                take(group, 300, 8.0, 2.0)
                eventually(lambda: state_of(tmp_path).models[0].concurrency == begin, "growth")
        finally:
            asking.join()
        assert failed(loads[0]) == []
        assert group.kills == 0
        assert min(sample.sequences for sample in samples) < begin
        told = [line for line in host.log() if line["event"] == "degraded"]
        assert any("sequences" in line["rungs"] for line in told)
