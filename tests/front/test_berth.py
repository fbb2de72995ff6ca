"""How long a worker is still to come for."""

import pytest

from rayhost.errors import Unavailable
from rayhost.front.berth import Berth
from rayhost.ipc.messages import Message


class Nobody:
    def send(self, request_id: int, message: Message) -> None:
        raise AssertionError(f"nobody is told {message} about {request_id}")


def test_a_worker_is_expected_when_the_last_load_would_be_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0]
    monkeypatch.setattr("rayhost.front.berth.clock.now_ns", lambda: now[0])
    berth = Berth(lambda: None)

    def left() -> float | None:
        return berth.loading_ns

    assert left() == 0  # nothing is known yet
    berth.attach(Nobody(), 8000)
    assert left() is None
    berth.attach(Nobody(), 3)  # another context, which takes no load
    now[0] = 100_000_000_000
    berth.detach()
    assert left() == 8_000_000_000
    now[0] += 5_000_000_000
    assert left() == 3_000_000_000
    now[0] += 5_000_000_000
    assert left() == 0
    berth.load_begins()  # it was unloaded all that time
    assert left() == 8_000_000_000
    berth.turn_away(Unavailable("it failed"))
    assert left() is None
