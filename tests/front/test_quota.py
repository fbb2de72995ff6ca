"""What a key may use: requests at once, requests and tokens a minute."""

from typing import Any

import msgspec
import pytest

from rayhost.errors import RateLimited
from rayhost.front import keys
from rayhost.front.keys import Key
from rayhost.front.quota import Left, Quotas

S = 1_000_000_000


def key(**limits: Any) -> Key:
    return msgspec.structs.replace(keys.create("a")[0], **limits)


def come(quotas: Quotas, one: Key, at_s: float) -> None:
    quotas.begin(one, round(at_s * S))
    quotas.end(one, 0)


def test_a_key_without_limits_has_none() -> None:
    quotas, one = Quotas(), key()
    for _ in range(1000):
        quotas.begin(one, 0)
    quotas.spent(one.id, 10**9)
    assert quotas.left(one, 0) == []


def test_requests_at_once_are_bounded_and_their_end_makes_room() -> None:
    quotas, one = Quotas(), key(concurrency=2)
    quotas.begin(one, 0)
    quotas.begin(one, 0)
    with pytest.raises(RateLimited, match="2 requests at once") as caught:
        quotas.begin(one, 0)
    assert (caught.value.status, caught.value.retry_after) == (429, 1)
    quotas.begin(key(concurrency=1), 0)  # another's
    quotas.end(one, 0)
    quotas.begin(one, 0)


def test_one_over_its_requests_at_once_comes_back_when_one_will_have_ended() -> None:
    quotas, one = Quotas(), key(concurrency=2)
    for _ in range(2):
        quotas.begin(one, 0)
    for second in (7, 14):
        quotas.end(one, second * S)
        quotas.begin(one, second * S)
    with pytest.raises(RateLimited) as caught:
        quotas.begin(one, 15 * S)
    assert caught.value.retry_after == 7
    for second in (15, 16):
        quotas.end(one, second * S)
    for _ in range(2):  # after a pause, which says nothing about speed
        quotas.begin(one, 90 * S)
    with pytest.raises(RateLimited) as anew:
        quotas.begin(one, 90 * S)
    assert anew.value.retry_after == 1


def test_requests_a_minute_come_back_at_a_steady_rate() -> None:
    quotas, one = Quotas(), key(requests_per_minute=6)
    for _ in range(6):
        come(quotas, one, 0)
    with pytest.raises(RateLimited, match="6 requests a minute") as caught:
        come(quotas, one, 0)
    assert caught.value.retry_after == 10
    with pytest.raises(RateLimited) as caught:
        come(quotas, one, 9)
    assert caught.value.retry_after == 1
    come(quotas, one, 10)
    with pytest.raises(RateLimited):
        come(quotas, one, 10)
    assert quotas.left(one, 10 * S) == [Left("requests", 6, 0, 60.0)]
    assert quotas.left(one, 1000 * S) == [Left("requests", 6, 6, 0.0)]


def test_a_request_that_was_refused_takes_nothing() -> None:
    quotas, one = Quotas(), key(requests_per_minute=10, concurrency=1)
    quotas.begin(one, 0)
    for _ in range(5):
        with pytest.raises(RateLimited):
            quotas.begin(one, 0)
    assert quotas.left(one, 0)[0].remaining == 9


def test_tokens_are_taken_when_they_were_computed_and_a_debt_is_paid_first() -> None:
    quotas, one = Quotas(), key(tokens_per_minute=600)
    come(quotas, one, 0)
    quotas.spent(one.id, 700)
    assert quotas.left(one, 0) == [Left("tokens", 600, 0, 70.0)]
    with pytest.raises(RateLimited, match="600 tokens a minute") as caught:
        come(quotas, one, 0)
    assert caught.value.retry_after == 11
    come(quotas, one, 11)


def test_a_limit_that_changes_binds_at_once() -> None:
    quotas, one = Quotas(), key(requests_per_minute=100)
    come(quotas, one, 0)
    lower = msgspec.structs.replace(one, requests_per_minute=1)
    come(quotas, lower, 0)
    with pytest.raises(RateLimited):
        come(quotas, lower, 0)
    come(quotas, msgspec.structs.replace(one, requests_per_minute=None), 0)


def test_tokens_of_a_key_that_never_came_are_nobodys() -> None:
    quotas, one = Quotas(), key(tokens_per_minute=600)
    quotas.spent(one.id, 100)
    assert quotas.left(one, 0)[0].remaining == 600
