"""A whole host answering: streams, bounds, disconnects, what it costs and what it writes down."""

import asyncio
import json
from pathlib import Path

import httpx
import psutil
import pytest

from tests.end_to_end.ask import PATH, body, complete, send, streaming
from tests.end_to_end.conftest import LONG
from tests.support.host import Host, started, tiny, write_profile
from tests.support.waiting import eventually

pytestmark = pytest.mark.heavy


def active(host: Host) -> float:
    return host.metric("rayhost_active_sequences")


def logged(host: Host, request_id: str) -> dict[str, object]:
    """The log line of a request, which may come after its answer."""
    eventually(lambda: request_id in host.requests(), f"the log line of {request_id}")
    return host.requests()[request_id]


def test_the_ready_line_is_a_command_that_works(host: Host) -> None:
    assert host.ready_line.startswith("rayhost: tiny ready after ")
    assert f"curl -s {host.url}/v1/chat/completions" in host.ready_line
    assert httpx.get(f"{host.url}/health").json()["status"] == "ok"
    assert httpx.get(f"{host.url}/ready").status_code == 200
    sent = json.loads(host.ready_line.rstrip().rpartition("-d '")[2].removesuffix("'"))
    reply = httpx.post(f"{host.url}/v1/chat/completions", json={**sent, "max_tokens": 5})
    assert reply.json()["usage"]["completion_tokens"] == 5


def test_a_stream_says_the_same_as_a_whole_reply(host: Host) -> None:
    whole = complete(host, max_tokens=100).json()
    with streaming(host, max_tokens=100) as stream:
        text, reason = stream.rest()
    assert (text, reason) == (whole["choices"][0]["text"], "length")
    assert len(text) >= 100


async def test_16_streams_at_once_complete_each_with_its_own_text(host: Host) -> None:
    async def read(client: httpx.AsyncClient, n: int) -> tuple[str, int]:
        text, tokens = "", 0
        options = {"include_usage": True}
        asked = body(f"Story {n}", 60, stream=True, stream_options=options)
        async with client.stream("POST", host.url + PATH, json=asked) as response:
            async for line in response.aiter_lines():
                if line and not line.endswith("[DONE]"):
                    event = json.loads(line.removeprefix("data: "))
                    text += "".join(choice["text"] for choice in event["choices"])
                    tokens = (event["usage"] or {}).get("completion_tokens", 0)
        return text, tokens

    async with httpx.AsyncClient(timeout=60) as client:
        alone = [await read(client, n) for n in range(16)]
        together = await asyncio.gather(*(read(client, n) for n in range(16)))
    assert together == alone
    assert [tokens for _, tokens in together] == [60] * 16
    assert len({text for text, _ in together}) > 10


def test_a_prompt_longer_than_the_context_is_refused_while_every_sequence_is_busy(
    host: Host,
) -> None:
    with streaming(host, max_tokens=LONG - 100) as busy:
        busy.first_text()
        reply = complete(host, prompt="x" * (LONG + 1))
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "context_length_exceeded"


def test_a_stream_whose_client_goes_is_out_of_the_batch(host: Host) -> None:
    with streaming(host, "stream-gone", max_tokens=LONG - 100) as stream:
        stream.first_text()
        with host.frozen():
            stream.response.close()
            assert logged(host, "stream-gone")["outcome"] == "cancelled"
            assert active(host) == 1
        eventually(lambda: active(host) == 0, "the sequence to be free")


def test_a_client_that_waits_for_a_whole_reply_and_goes_frees_its_sequence(host: Host) -> None:
    with send(host, "reply-gone", max_tokens=LONG - 100):
        eventually(lambda: active(host) == 1, "the run to start")
    assert logged(host, "reply-gone")["outcome"] == "cancelled"
    eventually(lambda: active(host) == 0, "the sequence to be free")


def test_a_full_queue_is_429_with_the_time_to_come_back(models: Path, store: Path) -> None:
    profile = write_profile(models / "narrow.json", [tiny(concurrency=1)], queue=1)
    with started(profile, store) as host, streaming(host, max_tokens=500) as running:
        running.first_text()
        with host.frozen():
            waiting = send(host)  # its prompt cannot be read before the worker goes on
            eventually(lambda: host.metric("rayhost_queued") == 1, "the request to wait")
            refused = complete(host)
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "queue_full"
            assert int(refused.headers["Retry-After"]) >= 1
        with waiting as one:
            assert one.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_an_idle_front_is_small_and_has_loaded_no_engine(models: Path, store: Path) -> None:
    with started(write_profile(models / "idle.json", [tiny()]), store) as host:
        assert complete(host).status_code == 200
        mapped = " ".join(one.path for one in host.front.memory_maps())
        for foreign in ("libllama", "libggml", "numpy", "libgomp"):
            assert foreign not in mapped
            assert foreign in " ".join(one.path for one in host.worker().memory_maps())
        assert host.front.memory_info().rss < 64 << 20


def test_the_request_id_is_in_the_answer_and_in_the_log(host: Host) -> None:
    reply = complete(host, "my-own-id", max_tokens=7)
    assert reply.headers["X-Request-Id"] == "my-own-id"
    line = logged(host, "my-own-id")
    assert {name: line[name] for name in ("model", "outcome", "completion_tokens", "level")} == {
        "model": "tiny",
        "outcome": "length",
        "completion_tokens": 7,
        "level": "info",
    }
    assert line["prompt_tokens"] == reply.json()["usage"]["prompt_tokens"]
    for time in ("queue_ms", "prefill_ms", "decode_ms"):
        value = line[time]
        assert isinstance(value, float)
        assert 0 <= value < 60_000
    assert str(line["timestamp"]).endswith("Z")


def test_an_id_is_made_where_none_was_sent(host: Host) -> None:
    made = complete(host).headers["X-Request-Id"]
    assert logged(host, made)["outcome"] == "length"


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({}, "length"),
        ({"stream": True}, "length"),
        ({"model": "nobody"}, "model_not_found"),
        ({"prompt": "x" * (LONG + 1)}, "context_length_exceeded"),
        ({"prompt": [999_999]}, "invalid_value"),
    ],
)
def test_every_request_gives_exactly_one_request_line(
    host: Host, fields: dict[str, object], outcome: str
) -> None:
    request_id = f"one-line-{outcome}-{len(fields)}-{'model' in fields}-{'prompt' in fields}"
    httpx.post(
        host.url + PATH, json={**body(), **fields}, headers={"X-Request-Id": request_id}, timeout=60
    )
    assert logged(host, request_id)["outcome"] == outcome


def test_a_stream_survives_its_worker(host: Host) -> None:
    undisturbed = complete(host, max_tokens=480).json()["choices"][0]["text"]
    with streaming(host, "survivor", max_tokens=480) as stream:
        text = stream.first_text()
        old = host.worker()
        with host.frozen():  # so that it cannot be done before the kill
            cut = "survivor" not in host.requests()
            old.kill()
        more, reason = stream.rest()
    assert cut, "the worker was done before it could be stopped"
    assert (text + more, reason) == (undisturbed, "length")
    eventually(lambda: httpx.get(f"{host.url}/health").status_code == 200, "health to be back")
    assert host.worker().pid != old.pid
    assert len(host.workers()) == 1
    lost = [line for line in host.log() if line["event"] == "worker lost"]
    assert "SIGKILL" in lost[-1]["reason"]


def test_health_tells_of_a_dead_worker(host: Host) -> None:
    verdicts = []

    def back() -> bool:
        reply = httpx.get(f"{host.url}/health")
        verdicts.append((reply.status_code, reply.json()["reasons"]))
        return len({status for status, _ in verdicts}) == 2 and verdicts[-1][0] == 200

    host.worker().kill()
    eventually(back, "a verdict that fails and then one that does not")
    failing = [reasons for status, reasons in verdicts if status == 503]
    assert any("SIGKILL" in reason for reasons in failing for reason in reasons)


def test_a_worker_is_the_first_that_the_kernel_takes(models: Path, store: Path) -> None:
    def score(process: psutil.Process) -> int:
        return int(Path(f"/proc/{process.pid}/oom_score_adj").read_text())

    profile = write_profile(models / "victim.json", [tiny()])
    with started(profile, store) as host:
        assert score(host.worker()) == 500
    # In a container it may be higher, and then not be the worker's to lower.
    raised = ("sh", "-c", 'echo 900 > /proc/self/oom_score_adj && exec "$@"', "sh")
    with started(profile, store, prefix=raised) as host:
        assert score(host.front) == score(host.worker()) == 900
