"""What requests are spared while memory is short, through the host."""

import pytest
from msgspec.structs import replace

from rayhost.errors import Overloaded
from rayhost.front.host import Host
from rayhost.front.relief import NONE, Relief
from rayhost.front.request import GenerateRequest, PairPrompt, Priority, Terms
from rayhost.metrics import Metrics
from tests.front.fake_worker import FakeWorker, make_lane, request
from tests.front.test_host import make_host


def of(priority: Priority) -> GenerateRequest:
    return GenerateRequest("r", "tiny", request().prompt, terms=Terms(priority=priority))


@pytest.mark.parametrize(("asked", "given"), [(None, 20), (50, 20), (20, 20), (5, 5)])
async def test_answers_are_cut_to_what_there_is(asked: int | None, given: int) -> None:
    host, worker, metrics = make_host()
    host.relieve(Relief(("max_tokens",), max_tokens=20))
    await host.submit(request(max_tokens=asked))
    assert [start.max_tokens for start in worker.starts] == [given]
    told = b'rayhost_degradations_total{model="tiny",reason="max_tokens"} 1.0'
    assert (told in metrics.render()) == (asked != given)


async def test_only_priorities_up_to_the_shed_one_are_refused() -> None:
    host, worker, metrics = make_host()
    host.relieve(Relief(("shed",), shed=Priority.LOW))
    for priority in (Priority.LOW, Priority.BATCH):
        with pytest.raises(Overloaded, match="memory is short") as caught:
            await host.submit(of(priority))
        assert (caught.value.code, bool(caught.value.retry_after)) == ("shed", True)
    await host.submit(of(Priority.NORMAL))
    assert len(worker.starts) == 1
    assert b'rayhost_refusals_total{model="tiny",reason="shed"} 2.0' in metrics.render()
    host.relieve(NONE)
    await host.submit(of(Priority.LOW))
    assert len(worker.starts) == 2


def test_what_writes_no_text_is_not_shortened() -> None:
    ranked = GenerateRequest("r", "tiny", PairPrompt("a", "b"), task="rank")
    assert Relief(max_tokens=1).shortened(ranked) is ranked


async def test_another_model_answers_for_one_that_there_is_no_memory_for() -> None:
    metrics = Metrics()
    large, small = make_lane(name="large"), make_lane(name="small")
    host = Host([large, small], metrics, lambda: [])
    workers = FakeWorker(large), FakeWorker(small)
    host.relieve(Relief(("fallback",), instead={"large": "small"}))
    run = await host.submit(replace(request(), model="large"))
    assert run.model == "small"
    assert [len(worker.starts) for worker in workers] == [0, 1]
    told = b'rayhost_degradations_total{model="large",reason="fallback"} 1.0'
    assert told in metrics.render()
    host.relieve(NONE)
    assert (await host.submit(replace(request(), model="large", id="again"))).model == "large"
