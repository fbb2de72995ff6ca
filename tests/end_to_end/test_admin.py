"""What the operator sees and does through the admin socket of a real host."""

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import msgspec

from rayhost import admin_socket
from rayhost.front.state import HostState
from tests.end_to_end.ask import complete, send, streaming
from tests.end_to_end.conftest import LONG
from tests.support.host import Host, command, environment, started, tiny, write_profile
from tests.support.waiting import eventually


def state(host: Host) -> HostState:
    status, body = admin_socket.ask(host.admin_socket, "GET", "/admin/state")
    assert status == 200
    return msgspec.json.decode(body, type=HostState)


def post(host: Host, target: str) -> tuple[int, Any]:
    status, body = admin_socket.ask(host.admin_socket, "POST", target)
    return status, json.loads(body)


def test_the_state_shows_what_runs_and_what_waits(host: Host) -> None:
    with streaming(host, "seen", max_tokens=LONG, prompt="seen") as running:
        running.first_text()
        shown = state(host)
        (model,) = shown.models
        (request,) = model.requests
        assert (request.id, request.phase, request.priority) == ("seen", "decode", "normal")
        assert request.generated_tokens > 0
        assert (model.name, model.state, model.concurrency) == ("tiny", "ready", 4)
        assert model.pid == host.worker().pid
        assert model.rss_bytes > 10_000_000
        assert shown.front_rss_bytes > 10_000_000
        assert shown.connections >= 1
        assert shown.url == host.url


def test_top_prints_a_frame_of_it(host: Host) -> None:
    result = subprocess.run(
        command("top", "--once", "--socket", host.admin_socket),
        capture_output=True,
        text=True,
        check=True,
        env=environment(None),
    )
    assert host.url in result.stdout
    assert "tiny" in result.stdout


def test_an_answer_is_kept_until_the_cache_is_purged(models: Path, store: Path) -> None:
    profile = write_profile(models / "kept.json", [tiny(share="reproducible")])
    with started(profile, store) as host:
        met = [complete(host).headers["x-rayhost-cache"] for _ in range(2)]
        assert post(host, "/admin/cache/purge") == (200, {"purged": 1})
        met.append(complete(host).headers["x-rayhost-cache"])
        assert met == ["miss", "hit", "miss"]
        assert state(host).cache.lookups == {"hit": 1, "miss": 2}


def test_a_restart_gives_a_new_worker_and_a_stream_goes_on(models: Path, store: Path) -> None:
    profile = write_profile(models / "restart.json", [tiny(context=LONG, kv={"type": "q8_0"})])
    with started(profile, store) as host:
        before = host.worker().pid
        whole = complete(host, max_tokens=2000).json()["choices"][0]["text"]
        with streaming(host, max_tokens=2000) as stream:
            first = stream.first_text()
            with host.frozen():  # so the stream cannot end before the restart
                status, answer = post(host, "/admin/models/tiny/restart")
            assert (status, answer) == (200, {"model": "tiny", "state": "ready"})
            rest, reason = stream.rest()
        assert (first + rest, reason) == (whole, "length")
        assert host.worker().pid != before
        assert 'rayhost_worker_restarts_total{cause="replaced",model="tiny"} 1.0' in (
            httpx.get(f"{host.url}/metrics").text
        )


def test_it_answers_while_the_queue_is_full_and_goes_with_the_host(
    models: Path, store: Path
) -> None:
    profile = write_profile(models / "full.json", [tiny(concurrency=1)], queue=1, connections=8)
    with started(profile, store) as host:
        path = host.admin_socket
        with host.frozen():
            waiting = [send(host, prompt=f"p{n}") for n in range(2)]
            eventually(lambda: host.metric("rayhost_queued") == 2, "both to wait")
            assert complete(host, prompt="one more").status_code in (429, 503)
            assert state(host).models[0].queued == 2
            for target in ("/health", "/ready"):
                assert httpx.get(host.url + target).status_code == 200
            fillers = [send(host, prompt="p0") for _ in range(7)]
            eventually(lambda: state(host).connections >= 8, "the connections to be full")
            assert state(host).models[0].name == "tiny"
            for one in [*waiting, *fillers]:
                one.close()
        host.terminate()
        assert host.exit_status() == 0
        assert not path.exists()
