"""What one frame of `rayhost top` shows, at 80 columns."""

from rich.console import Console

from rayhost.cli.frame import frame
from rayhost.front.state import CpuState, HostState, MemoryState
from tests.cli.states import host, model, request


def shown(now: HostState, before: HostState | None = None, height: int = 24) -> list[str]:
    console = Console(width=80, height=height, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(frame(now, before, height))
    return [line.rstrip() for line in capture.get().splitlines()]


def row(lines: list[str], start: str) -> list[str]:
    (found,) = (line for line in lines if line.strip().startswith(start))
    return found.split()


def test_a_model_is_a_row_without_rates_until_there_are_two_states() -> None:
    lines = shown(host(model()))
    assert row(lines, "tiny") == ["tiny", "ready", "3/8", "2", "12%", "-", "-", "310", "MB"]


def test_rates_are_of_the_time_between_two_states() -> None:
    before = host(model(), uptime_s=60.0)
    now = host(model(steps=150, step_s=3.0, decode_tokens=700), uptime_s=62.0)
    assert row(shown(now, before), "tiny")[5:7] == ["200", "20.0"]


def test_a_worker_that_was_replaced_has_no_rate_yet() -> None:
    now = host(model(pid=8, steps=1, decode_tokens=1), uptime_s=61.0)
    assert row(shown(now, host(model())), "tiny")[5:7] == ["-", "-"]


def test_the_totals_tell_of_the_front_and_the_cache() -> None:
    text = "\n".join(shown(host(model())))
    assert "rayhost 1.2.3  http://127.0.0.1:8080  up 1m00s" in text
    assert "front 61 MB  free 1.81 GB  12 connections" in text
    assert "cache 120 answers, 1 MB, 75% of 4 reused" in text
    assert "going down" not in text
    assert "going down" in "\n".join(shown(host(draining=True)))


def test_who_waits_is_told_by_priority() -> None:
    waiting = {"high": 2, "normal": 0, "low": 3, "batch": 0}
    busy = (model(queued_by_priority=waiting), model("other", queued_by_priority={"low": 4}))
    requests = tuple(request(f"r{n}") for n in range(100))
    lines = shown(host(*busy, model("third", requests=requests)))
    assert "waiting: 2 high, 2 normal, 7 low" in lines
    assert len(lines) <= 24
    idle = host(model(queued_by_priority={"high": 0, "low": 0}))
    assert not any(line.startswith("waiting") for line in shown(idle))


def test_what_is_kept_back_of_the_cpus_is_told_only_where_some_is() -> None:
    memory = MemoryState(cores=0.5)
    before = host(model(), uptime_s=60.0, memory=memory, cpu=CpuState(3.0, 10.0, 0.4))
    now = host(model(), uptime_s=62.0, memory=memory, cpu=CpuState(3.1, 10.5, 0.61))
    told = "cpu of 0.5 cores: 0.25 stopped by quota, 0.05 stolen"
    assert f"{told}, waited 61% of 10 s" in shown(now, before)
    silent = host(model(), uptime_s=62.0, memory=memory, cpu=CpuState(3.1, 10.5))
    assert told in shown(silent, before)
    calm = host(model(), uptime_s=62.0, memory=memory, cpu=CpuState(3.0, 10.0, 0.9))
    assert not any(line.startswith("cpu") for line in shown(calm, before) + shown(now))


def test_what_was_refused_is_told_by_the_second_and_the_code() -> None:
    before = host(model(), uptime_s=60.0, unanswered={"queue_full": 5, "shed": 1})
    now = host(model(), uptime_s=62.0, unanswered={"queue_full": 12, "shed": 1, "overloaded": 1})
    assert "refused/s: queue_full 3.5, overloaded 0.5" in shown(now, before)
    for quiet in (shown(now), shown(now, now), shown(before, before)):
        assert not any(line.startswith("refused") for line in quiet)


def test_many_kinds_of_refusals_keep_to_a_line_and_requests_to_the_height() -> None:
    codes = {"rate_limit_exceeded": 8, "deadline_exceeded": 9, "context_length_exceeded": 7}
    requests = tuple(request(f"r{n}") for n in range(100))
    before = host(model(requests=requests), uptime_s=60.0)
    now = host(model(requests=requests), uptime_s=61.0, unanswered=codes)
    lines = shown(now, before)
    assert len(lines) <= 24
    (line,) = (line for line in lines if line.startswith("refused/s: "))
    assert line == "refused/s: deadline_exceeded 9.0, rate_limit_exceeded 8.0, ..."


def test_a_request_is_a_row() -> None:
    lines = shown(host(model(requests=(request(),))))
    assert row(lines, "req-1") == ["req-1", "tiny", "decode", "normal", "1,200", "34", "2.5s"]


def test_names_of_any_length_and_kind_keep_to_80_columns() -> None:
    long = model("[red]" + "m" * 60, requests=(request("[b]" + "r" * 128, prompt_tokens=10**6),))
    lines = shown(host(long))
    assert max(map(len, lines)) <= 80
    assert any(line.strip().startswith("[red]mmm") for line in lines)
    assert any(line.strip().startswith("[b]rrr") for line in lines)


def test_more_requests_than_lines_are_counted() -> None:
    lines = shown(host(model(requests=tuple(request(f"r{n}") for n in range(100)))))
    assert len(lines) <= 24
    listed = sum(line.strip().startswith("r") and "decode" in line for line in lines)
    assert f"and {100 - listed} more" in "\n".join(lines)


def test_what_is_given_up_for_want_of_memory_is_told_with_its_reason() -> None:
    memory = MemoryState(
        limit_bytes=805_000_000, used_bytes=700_000_000, allowed_bytes=600_000_000,
        needed_bytes=500_000_000, level=3, rungs=("caches", "sequences"), reason="memory",
    )  # fmt: skip
    lines = shown(host(model(), memory=memory))
    assert "memory 700 MB of 805 MB, need 500 MB of 600 MB" in "\n".join(lines)
    assert "given up: caches, sequences (memory)" in "\n".join(lines)
