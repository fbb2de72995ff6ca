"""The profile's hooks: run when a model is loaded and when the host is ready, and gone with it."""

import json
from pathlib import Path

import httpx
import psutil
import pytest

from tests.end_to_end.conftest import LONG
from tests.support.host import started, tiny
from tests.support.waiting import eventually

pytestmark = pytest.mark.heavy


def test_hooks_hear_of_each_load_and_can_use_the_host_and_end_with_it(
    models: Path, store: Path
) -> None:
    heard = models / "heard"
    say = 'echo "$RAYHOST_HOOK $RAYHOST_MODEL $RAYHOST_URL" >> heard'
    profile = models / "hooks.json"
    profile.write_text(
        json.dumps(
            {
                "models": [tiny(context=LONG)],
                "hooks": {
                    "on_model_loaded": ["sh", "-c", f"cd {models}; {say}"],
                    "on_ready": ["sh", "-c", f"cd {models}; {say}; sleep 600"],
                },
            }
        )
    )

    def lines() -> list[str]:
        return sorted(heard.read_text().splitlines()) if heard.exists() else []

    with started(profile, store) as host:
        both = [f"on_model_loaded tiny {host.url}", f"on_ready  {host.url}"]
        eventually(lambda: lines() == both, "both hooks")
        host.worker().kill()
        eventually(lambda: lines() == sorted([*both, both[0]]), "the hook of the next worker")
        assert httpx.get(f"{host.url}/ready").status_code == 200, "no hook is waited for"
        (sleeping,) = (one for one in host.front.children() if one.name() == "sh")
        host.terminate()
        assert host.exit_status() == 0
        assert not psutil.pid_exists(sleeping.pid)
        assert [line["event"] for line in host.log() if "hook" in line["event"]] == []
