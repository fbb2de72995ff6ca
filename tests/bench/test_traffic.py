"""Traffic: the same for the same seed, other text for another, and the shape each workload says."""

import msgspec
import pytest

from bench import traffic
from bench.overload import storm
from bench.traffic import ANSWER, TURNS, WORKLOADS, Call, Traffic


def prompts(sent: Traffic) -> list[str]:
    return [call.messages[-1]["content"] for lane in sent.lanes for call in lane.calls]


@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_seed_decides_every_byte(workload: str) -> None:
    once, again, other = (traffic.make(workload, 4, 2, seed) for seed in ("1 1", "1 1", "1 2"))
    assert msgspec.json.encode(once) == msgspec.json.encode(again)
    assert not set(prompts(once)) & set(prompts(other))


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("clients", [1, 16])
def test_every_client_gets_its_calls(workload: str, clients: int) -> None:
    sent = traffic.make(workload, clients, 3, "1")
    each = 3 * TURNS if workload == "chat" else 3
    assert [len(lane.calls) for lane in sent.lanes] == [each] * clients
    assert sent.calls == each * clients


def test_unique_questions_share_no_beginning_worth_caching() -> None:
    asked = prompts(traffic.make("unique", 16, 4, "1"))
    assert len({text[: len("Story 12")] for text in asked}) > 30
    assert len(set(asked)) == 64


def test_repeat_has_four_questions_and_same_one_in_each_round() -> None:
    assert len(set(prompts(traffic.make("repeat", 16, 4, "1")))) == 4
    lanes = traffic.make("same", 5, 3, "1").lanes
    assert len(set(prompts(traffic.make("same", 5, 3, "1")))) == 3
    assert all(lane == lanes[0] for lane in lanes)


@pytest.mark.parametrize("workload", ["shared-prefix-cold", "shared-prefix-warm"])
def test_a_shared_prefix_is_one_system_prompt_before_different_questions(workload: str) -> None:
    sent = traffic.make(workload, 4, 2, "1")
    calls = [call for lane in sent.lanes for call in lane.calls]
    assert len({call.messages[0]["content"] for call in calls}) == 1
    assert len(set(prompts(sent))) == 8


def test_only_the_warm_shared_prefix_was_seen_before_the_clock_starts() -> None:
    warm = traffic.make("shared-prefix-warm", 4, 2, "1")
    [seen] = warm.warm_up
    assert seen.messages[0] == warm.lanes[0].calls[0].messages[0]
    assert seen.messages[1]["content"] not in prompts(warm)
    assert traffic.make("shared-prefix-cold", 4, 2, "1").warm_up == ()


def test_each_turn_of_a_chat_begins_with_all_of_the_turn_before() -> None:
    for lane in traffic.make("chat", 2, 1, "1").lanes:
        assert [len(call.messages) for call in lane.calls] == [1, 3, 5, 7]
        for before, after in zip(lane.calls, lane.calls[1:], strict=False):
            assert after.messages[: len(before.messages)] == before.messages


def words(call: Call) -> int:
    return sum(len(message["content"].split()) for message in call.messages)


def test_every_fourth_call_of_mixed_is_long_and_short_of_answer() -> None:
    calls = [call for lane in traffic.make("mixed", 4, 4, "1").lanes for call in lane.calls]
    long = [call for call in calls if words(call) > 500]
    assert len(long) == len(calls) // 4
    assert all(call.max_tokens < ANSWER for call in long)


def test_long_prompts_leave_room_for_the_answer_in_a_default_context() -> None:
    for call in traffic.make("long", 2, 2, "1").lanes[0].calls:
        assert 1300 < words(call) < 1400
        assert call.max_tokens + 1600 < 2048


def test_an_overload_comes_at_four_times_the_capacity_whoever_is_done() -> None:
    sent = traffic.overload(8, 25, "1", capacity_per_s=5.0)
    starts = [lane.start_s for lane in sent.lanes]
    assert all(len(lane.calls) == 1 for lane in sent.lanes)
    assert len(starts) == 4 * 8 * 25
    assert starts == sorted(starts)
    assert len(starts) / starts[-1] == pytest.approx(20.0, rel=0.1)
    assert sent == traffic.overload(8, 25, "1", capacity_per_s=5.0)


def test_an_unknown_workload_is_an_error() -> None:
    with pytest.raises(KeyError):
        traffic.make("nonsense", 1, 1, "1")


def test_what_is_known_was_asked_once_before() -> None:
    sent = traffic.make("repeat-warm", 4, 8, "1")
    assert {call.messages[0]["content"] for call in sent.warm_up} == set(prompts(sent))
    assert len(sent.warm_up) <= 4


def test_an_overload_comes_at_its_rate_with_somebody_of_high_priority_in_it() -> None:
    sent = storm("1", 20.0, 60.0)
    low = [
        lane for lane in sent.lanes if dict(lane.calls[0].headers)["X-Rayhost-Priority"] == "low"
    ]
    assert 1000 < len(low) < 1400
    assert max(lane.start_s for lane in low) < 60
    high = [lane.start_s for lane in sent.lanes if lane not in low]
    assert (min(high), len(high)) == (10, 25)
    assert len(set(prompts(sent))) == sent.calls
