"""The front as the HTTP layer sees it: names, going down, and a log line for every request."""

import asyncio

import pytest
from structlog.testing import capture_logs

from rayhost.errors import ApiError, ModelNotFound, QueueFull, Unavailable
from rayhost.front.host import Host
from rayhost.front.request import GenerateRequest, TokenPrompt
from rayhost.metrics import Metrics
from tests.front.fake_worker import CONTEXT, FakeWorker, chat_request, make_lane, request
from tests.front.test_lane import turn


def ask(model: str) -> GenerateRequest:
    return GenerateRequest(id="r", model=model, prompt=TokenPrompt((1,)))


def make_host(queue_limit: int = 100) -> tuple[Host, FakeWorker, Metrics]:
    metrics = Metrics()
    lane = make_lane(queue_limit=queue_limit)
    return Host([lane], metrics, lambda: []), FakeWorker(lane), metrics


async def test_a_model_answers_to_its_name_and_its_aliases() -> None:
    host, _, _ = make_host()
    for name in ("tiny", "t"):
        assert (await host.submit(ask(name))).model == "tiny"


async def test_an_unknown_model_is_refused_by_naming_the_known_ones() -> None:
    host, _, metrics = make_host()
    with capture_logs() as lines, pytest.raises(ModelNotFound, match="serves: tiny") as caught:
        await host.submit(ask("x" * 1_000_000))
    assert caught.value.param == "model"
    assert len(caught.value.message) < 1_000
    (line,) = lines
    assert len(line["model"]) == 100  # what strangers send must not fill the disk
    # Nor may it become a label: those stay in memory for ever.
    assert b'rayhost_refusals_total{model="",reason="model_not_found"} 1.0' in metrics.render()


async def test_a_draining_host_refuses_new_requests_and_goes_on_with_those_it_has() -> None:
    host, worker, _ = make_host()
    run = await host.submit(request())
    host.drain()
    assert host.draining()
    with pytest.raises(Unavailable) as caught:
        await host.submit(request())
    assert (caught.value.code, caught.value.retry_after) == ("draining", 5)

    worker.finish(worker.started[0])
    async for _ in run:
        pass
    assert run.finish.reason == "stop"


async def test_every_request_that_never_ran_gives_one_log_line_and_one_count() -> None:
    host, worker, metrics = make_host(queue_limit=0)
    for _ in range(2):
        await host.submit(request())
    with capture_logs() as lines:
        with pytest.raises(QueueFull):
            await host.submit(request("full"))
        worker.finish(worker.started[0])
        reading = asyncio.create_task(host.submit(chat_request("gone")))
        await turn()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        with pytest.raises(ApiError):
            await host.submit(request("long", tokens=tuple([1] * CONTEXT)))
    assert [(line["request_id"], line["outcome"]) for line in lines] == [
        ("full", "queue_full"),
        ("r", "stop"),
        ("gone", "cancelled"),
        ("long", "context_length_exceeded"),
    ]
    shown = metrics.render().decode()
    for outcome in ("queue_full", "cancelled", "context_length_exceeded"):
        assert f'rayhost_requests_total{{model="tiny",outcome="{outcome}"}} 1.0' in shown


async def test_a_card_follows_its_lane() -> None:
    lane = make_lane()
    host = Host([lane], Metrics(), lambda: [])
    (card,) = host.cards()
    assert (card.name, card.aliases, card.state, card.context) == ("tiny", ("t",), "starting", 0)
    FakeWorker(lane)
    lane.state, lane.reason = "restarting", "it died"
    (card,) = host.cards()
    assert (card.state, card.reason, card.context) == ("restarting", "it died", CONTEXT)
