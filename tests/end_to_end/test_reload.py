"""A changed profile on a running host: nobody's request is lost, and a bad one changes nothing."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from rayhost.front import keys
from tests.end_to_end.ask import complete, streaming
from tests.end_to_end.conftest import LONG
from tests.end_to_end.test_admin import post, state
from tests.support.host import Host, command, environment, gone, started, tiny, write_profile
from tests.support.silent_index import silent_index
from tests.support.tiny_gguf import write_tiny_llama
from tests.support.waiting import eventually

pytestmark = pytest.mark.heavy

EVENTS = {"reloaded", "reload refused"}
COMING = {"model ready", "model left"}


def reload(host: Host, store: Path) -> subprocess.CompletedProcess[str]:
    """Run the verb."""
    return subprocess.run(
        command("reload", "--socket", host.admin_socket),
        check=False,
        capture_output=True,
        text=True,
        env=environment(store),
        timeout=60,
    )


def models_of(host: Host) -> list[str]:
    return [card["id"] for card in httpx.get(f"{host.url}/v1/models").json()["data"]]


@pytest.fixture
def profile(models: Path) -> Path:
    return write_profile(models / "reload.json", [tiny(context=LONG)], drain_s=30)


def test_models_come_and_go_while_a_stream_of_one_ends(
    profile: Path, models: Path, store: Path
) -> None:
    with started(profile, store) as host, streaming(host, max_tokens=1500) as stream:
        stream.first_text()
        (old,) = host.workers()
        write_profile(profile, [tiny("second")], drain_s=30)
        verb = subprocess.Popen(
            command("reload", "--socket", host.admin_socket),
            stdout=subprocess.PIPE,
            text=True,
            env=environment(store),
        )
        with verb:
            eventually(lambda: models_of(host) == ["second"], "the second to be served")
            assert complete(host, model="second").status_code == 200
            assert complete(host, model="tiny").status_code == 404
            assert stream.rest()[1] == "length"
            told, _ = verb.communicate(timeout=60)
        assert (verb.returncode, told) == (0, "added: second\nremoved: tiny\n")
        assert gone([old])
        assert len(host.workers()) == 1


def test_a_changed_model_is_warm_before_it_takes_over(profile: Path, store: Path) -> None:
    with started(profile, store) as host, streaming(host, max_tokens=1500) as stream:
        stream.first_text()
        old = host.worker()
        write_profile(
            profile, [tiny(context=256, aliases=["other"], inter_token_ms=99)], drain_s=30
        )
        host.process.send_signal(signal.SIGHUP)
        eventually(lambda: state(host).models[0].kv_cells == 4 * 256, "the new worker")
        assert complete(host, model="other").status_code == 200
        assert stream.rest()[1] == "length"
        eventually(lambda: gone([old]), "the old worker's end")
        eventually(lambda: "model left" in events(host, COMING), "the line of its end")
        assert events(host, COMING) == ["model ready", "model ready", "model left"]
        eventually(lambda: "reloaded" in events(host), "the line in the log")


def test_a_bad_profile_changes_nothing_and_is_told(profile: Path, store: Path) -> None:
    with started(profile, store) as host:
        workers = host.workers()
        for models, why in (
            ([tiny(context=1)], "models[0].context"),
            ([tiny(), tiny("none", "none.gguf")], "none.gguf"),
            ([tiny(context=256), tiny("text", "text.gguf")], "model 'text'"),
        ):
            (profile.parent / "text.gguf").write_text("this is no model")
            write_profile(profile, models)
            result = reload(host, store)
            assert (result.returncode, result.stdout) == (1, "")
            assert why in result.stderr
            assert host.workers() == workers
            assert models_of(host) == ["tiny"]
            assert complete(host).status_code == 200
        assert events(host) == ["reload refused"] * 3


def test_limits_and_keys_are_read_again(profile: Path, store: Path) -> None:
    def write(**sections: Any) -> None:
        profile.write_text(json.dumps({"models": [tiny(context=LONG)], **sections}))

    write()
    with started(profile, store) as host, httpx.Client(base_url=host.url) as kept_alive:
        assert kept_alive.get("/v1/models").status_code == 200
        (key, secret) = keys.create("somebody")
        keys.write(profile.parent / "reload-keys.json", (key,))
        write(keys="reload-keys.json", limits={"body_bytes": 1024}, traces=True)
        result = reload(host, store)
        assert result.stdout.splitlines() == [
            "settings: limits.body_bytes, keys",
            "in force only after a restart: traces",
        ]
        assert kept_alive.get("/v1/models").status_code == 401
        entitled = {"Authorization": f"Bearer {secret}"}
        assert kept_alive.get("/v1/models", headers=entitled).status_code == 200
        large = httpx.post(
            f"{host.url}/v1/completions", headers=entitled, content=b"x" * 2000, timeout=60
        )
        assert large.status_code == 413


def test_what_takes_a_restart_is_told_until_there_was_one(profile: Path, store: Path) -> None:
    with started(profile, store) as host:
        profile.write_text(json.dumps({"models": [tiny(context=LONG)], "traces": True}))
        for _ in range(2):
            told = reload(host, store)
            assert told.stdout == "in force only after a restart: traces\n"
            assert state(host).profile.need_restart == ("traces",)
        write_profile(profile, [tiny(context=LONG)])
        assert "restart" not in reload(host, store).stdout
        assert state(host).profile.need_restart == ()


def test_the_cache_of_answers_shrinks_at_once(profile: Path, store: Path) -> None:
    shared = tiny(context=LONG, share="reproducible")
    write_profile(profile, [shared])
    with started(profile, store) as host:
        assert complete(host).status_code == 200
        assert state(host).cache.entries == 1
        profile.write_text(json.dumps({"models": [shared], "cache": {"bytes": 0}}))
        assert "settings: cache.bytes" in reload(host, store).stdout
        assert state(host).cache.entries == 0


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is nothing to split")
def test_front_and_workers_are_split_and_joined_again(profile: Path, store: Path) -> None:
    first, second, *_ = everywhere = sorted(os.sched_getaffinity(0))

    def where(pid: int) -> set[int]:
        threads = os.listdir(f"/proc/{pid}/task")
        return {cpu for one in threads for cpu in os.sched_getaffinity(int(one))}

    def write(**cpus: list[int]) -> None:
        profile.write_text(json.dumps({"models": [tiny(context=LONG)], "cpus": cpus}))

    write(front=[first], workers=[second])
    with started(profile, store) as host:
        assert (where(host.process.pid), where(host.worker().pid)) == ({first}, {second})
        write()
        assert reload(host, store).stdout.splitlines() == [
            "replaced: tiny",
            "settings: cpus.front, cpus.workers",
        ]
        assert complete(host).status_code == 200
        assert where(host.process.pid) == where(host.worker().pid) == set(everywhere)
        cores = state(host).memory.cores
        write(front=[second])  # the rest is for workers
        reload(host, store)
        assert where(host.process.pid) == {second}
        assert where(host.worker().pid) == set(everywhere) - {second}
        assert state(host).memory.cores == cores


def test_a_reload_without_a_change_says_so(profile: Path, store: Path) -> None:
    with started(profile, store) as host:
        workers = host.workers()
        assert reload(host, store).stdout == "nothing has changed\n"
        assert host.workers() == workers


def test_a_host_ends_in_the_middle_of_a_reload(profile: Path, store: Path) -> None:
    with started(profile, store) as host:
        with streaming(host, max_tokens=LONG - 100) as stream:
            stream.first_text()
            with host.frozen():  # so the removed model has a request for as long as this takes
                write_profile(profile, [tiny("second")], drain_s=30)
                host.process.send_signal(signal.SIGHUP)
                eventually(lambda: models_of(host) == ["second"], "the second to be served")
                workers = host.workers()
                assert len(workers) == 2
                write_profile(profile, [tiny("second")], drain_s=0)
                host.terminate()
            os.kill(host.process.pid, 0)
            stream.rest()
        assert host.exit_status() == 0
        assert gone(workers)


def test_a_pull_that_gets_nothing_keeps_neither_a_reload_nor_the_end_waiting(
    profile: Path, store: Path
) -> None:
    with silent_index() as index, started(profile, store, prefix=index.prefix) as host:
        write_profile(profile, [tiny(context=LONG), {"name": "never", "source": "pypi:never==1"}])
        verb = subprocess.Popen(
            command("reload", "--socket", host.admin_socket),
            stderr=subprocess.PIPE,
            text=True,
            env=environment(store),
        )
        with verb:
            index.asked()
            write_profile(profile, [tiny(context=1)])
            assert "models[0].context" in reload(host, store).stderr
            write_profile(profile, [tiny(context=LONG)], queue=7)
            assert "limits.queue" in reload(host, store).stdout
            _, said = verb.communicate(timeout=60)
        assert (verb.returncode, "a newer reload took its place" in said) == (1, True)
        write_profile(profile, [{"name": "never", "source": "pypi:never==1"}])
        host.process.send_signal(signal.SIGHUP)
        index.asked()
        host.terminate()
        assert host.exit_status() == 0


def test_a_model_that_failed_before_does_not_keep_other_changes_out(
    profile: Path, models: Path, store: Path
) -> None:
    served = [tiny(context=LONG), tiny("broken", "missing.gguf")]
    with started(write_profile(profile, served), store) as host:
        write_profile(profile, served, queue=7)
        told = reload(host, store)
        assert told.stdout == "settings: limits.queue\nfailed again: broken\n"
        (models / "missing.gguf").hardlink_to(models / "tiny.gguf")
        assert reload(host, store).stdout == "replaced: broken\n"
        assert complete(host, model="broken").status_code == 200


def test_another_file_moved_over_that_of_a_model_is_loaded(
    profile: Path, models: Path, store: Path
) -> None:
    write_tiny_llama(models / "moved.gguf", context=LONG)
    write_profile(profile, [tiny(file="moved.gguf", context=LONG)])
    with started(profile, store) as host:
        before = host.worker()
        write_tiny_llama(models / "next.gguf", context=LONG)
        (models / "next.gguf").replace(models / "moved.gguf")
        assert reload(host, store).stdout == "replaced: tiny\n"
        assert host.worker() != before
        assert reload(host, store).stdout == "nothing has changed\n"


def test_who_shares_answers_is_read_again(profile: Path, store: Path) -> None:
    with started(write_profile(profile, [tiny(share="all")]), store) as host:
        nothing = ("added", "removed", "replaced", "settings", "need_restart", "failed")
        assert post(host, "/admin/reload") == (200, {one: [] for one in nothing})
        for _ in range(2):
            answer = complete(host)
        assert answer.headers["x-rayhost-cache"] == "hit"
        write_profile(profile, [tiny(share="none")])
        assert post(host, "/admin/reload")[1]["settings"] == ["models.tiny.share"]
        assert complete(host).headers["x-rayhost-cache"] == "bypass"


def events(host: Host, named: set[str] = EVENTS) -> list[str]:
    return [line["event"] for line in host.log() if line["event"] in named]
