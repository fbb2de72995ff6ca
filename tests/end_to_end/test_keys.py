"""A whole host with API keys: who gets in, on what terms, and that changes need no restart."""

import subprocess
from pathlib import Path

import httpx
import pytest

from rayhost.front import keys
from tests.end_to_end.ask import PATH, body
from tests.support.host import command, environment, started, tiny, write_profile

pytestmark = pytest.mark.heavy


def key(store: Path, *arguments: str) -> str:
    run = subprocess.run(
        command("key", *arguments),
        check=True,
        capture_output=True,
        text=True,
        env=environment(store),
        timeout=60,
    )
    return run.stdout.strip()


def test_keys_come_and_go_while_the_host_runs(models: Path, tmp_path: Path) -> None:
    profile = write_profile(models / "keyed.json", [tiny()])
    with started(profile, tmp_path) as host, httpx.Client(base_url=host.url, timeout=60) as client:

        def ask(secret: str, **headers: str) -> httpx.Response:
            sent = {"Authorization": f"Bearer {secret}", **headers}
            return client.post(PATH, json=body(), headers=sent)

        assert client.post(PATH, json=body()).status_code == 200
        led_here = {"Host": "evil.example", "Origin": "http://evil.example"}
        assert client.post(PATH, json=body(), headers=led_here).status_code == 403
        secret = key(tmp_path, "add", "alice", "--requests", "100", "--tokens", "1000")
        assert client.post(PATH, json=body()).status_code == 401
        assert client.get("/v1/models").status_code == 401
        assert client.get("/health").status_code == client.get("/metrics").status_code == 200
        refused = 'rayhost_refusals_total{model="",reason="invalid_api_key"} 2.0'
        assert refused in client.get("/metrics").text

        reply = ask(secret, **{"Cache-Control": "no-store", "X-Rayhost-Priority": "high"})
        assert reply.status_code == 200
        assert reply.headers["x-rayhost-priority"] == "normal"
        used = reply.json()["usage"]["total_tokens"]
        again = ask(secret, **{"Cache-Control": "no-store"})
        # They fill again by a thousand a minute while the answers are computed.
        assert 1000 - 2 * used <= int(again.headers["x-ratelimit-remaining-tokens"]) < 1000
        assert int(again.headers["x-ratelimit-remaining-requests"]) <= 99

        key(tmp_path, "revoke", "alice")
        assert ask(secret).status_code == 401
        assert not any(secret in line for line in host.stderr().splitlines())
        notices = [line["notice"] for line in host.log() if line["event"] == "access"]
        assert notices == ["there are no API keys: every program on this machine may ask"]


def test_a_deadline_that_cannot_be_met_is_504(models: Path, store: Path) -> None:
    profile = write_profile(models / "late.json", [tiny()])
    with started(profile, store) as host, host.frozen():
        headers = {"X-Rayhost-Timeout-Ms": "50"}
        reply = httpx.post(host.url + PATH, json=body(), headers=headers, timeout=60)
        assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline_exceeded")


def test_without_keys_no_other_machine_is_listened_to(models: Path, tmp_path: Path) -> None:
    profile = write_profile(models / "refused.json", [tiny()])
    run = subprocess.run(
        command("serve", "--profile", profile, "--host", "0.0.0.0", "--port", "0"),
        check=False,
        capture_output=True,
        text=True,
        env=environment(tmp_path),
        timeout=60,
    )
    assert run.returncode == 1
    assert run.stderr.startswith("rayhost: there are no API keys, so 0.0.0.0 will not be listened")


def test_keys_of_the_profiles_own_file_are_needed(models: Path, tmp_path: Path) -> None:
    made, secret = keys.create("bob")
    keys.write(models / "own-keys.json", (made,))
    profile = models / "own.json"
    profile.write_text(
        write_profile(profile, [tiny()]).read_text().replace("{", '{"keys": "own-keys.json", ', 1)
    )
    with started(profile, tmp_path) as host:
        assert "Authorization: Bearer YOUR_KEY" in host.ready_line
        assert httpx.get(f"{host.url}/v1/models").status_code == 401
        headers = {"Authorization": f"Bearer {secret}"}
        assert httpx.get(f"{host.url}/v1/models", headers=headers).status_code == 200
