"""`rayhost doctor` beside a running host: nothing wrong with it, then what was made wrong."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import LONG
from tests.support.host import Host, command, environment, started, tiny

pytestmark = pytest.mark.heavy


def examined(host: Host, profile: Path, store: Path, *more: str) -> dict[str, dict[str, Any]]:
    """The findings by what was looked at."""
    done = subprocess.run(
        command("doctor", "--json", "--profile", profile, "--socket", host.admin_socket, *more),
        check=False,
        capture_output=True,
        text=True,
        env=environment(store),
    )
    assert done.stderr == ""
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return {one["check"]: one for one in found}


def test_a_running_host_is_sound_and_a_profile_that_was_not_applied_is_found(
    models: Path, store: Path
) -> None:
    profile = models / "doctor.json"
    value = {"models": [tiny(context=LONG)], "listen": {"port": 0}}
    profile.write_text(json.dumps(value))
    with started(profile, store) as host:
        found = examined(host, profile, store, "--url", host.url, "--deep")
        assert not found.keys() & {"drift", "model", "proxy", "permissions", "running host"}
        assert "error" not in {one["severity"] for one in found.values()}, found
        profile.write_text(json.dumps({**value, "models": [tiny("other", context=LONG)]}))
        assert (
            "other is not served, tiny is served still"
            in (examined(host, profile, store)["drift"]["what"])
        )
