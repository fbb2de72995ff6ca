"""What a lane shows of its requests while they run, and the gaps it counts."""

import pytest

from rayhost import clock
from tests.front.fake_worker import FakeWorker, make_lane, request


async def test_each_request_is_shown_with_what_it_does() -> None:
    lane = make_lane(concurrency=1)  # and two that are started ahead
    worker = FakeWorker(lane)
    for name in ("a", "b", "c", "d"):
        await lane.submit(request(name, tokens=(1, 2)))
    worker.tokens(worker.started[0], 5, 6)
    shown = [(one.id, one.phase, one.generated_tokens) for one in lane.requests()]
    assert shown == [
        ("a", "decode", 2), ("b", "prefill", 0), ("c", "prefill", 0), ("d", "queued", 0),
    ]  # fmt: skip
    assert {(one.prompt_tokens, one.priority) for one in lane.requests()} == {(2, "normal")}
    assert all(one.age_s >= 0 for one in lane.requests())


async def test_the_gap_is_between_tokens_and_not_before_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_ns = 10**9
    monkeypatch.setattr(clock, "now_ns", lambda: now_ns)
    lane = make_lane()
    worker = FakeWorker(lane)
    await lane.submit(request())
    (number,) = worker.started
    now_ns += 500
    worker.tokens(number, 5)
    now_ns += 60_000_000
    worker.tokens(number, 6, 7)
    now_ns += 10
    worker.tokens(number, text="held back")
    shown = lane._metrics.render().decode()
    assert 'rayhost_inter_token_seconds_sum{model="tiny"} 0.03\n' in shown
    assert 'rayhost_inter_token_seconds_count{model="tiny"} 1.0\n' in shown
