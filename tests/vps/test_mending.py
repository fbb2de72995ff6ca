"""install.sh on an installation: what it refuses, what it keeps, and what it finishes."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.vps.box import Box
from tests.vps.clients import Service
from tests.vps.conftest import PROFILE, UPGRADE, WHEELHOUSE

NOTHING = "install: nothing to change\n"
SLICE = "/etc/systemd/system/rayhost.slice"


def install(machine: Box, *options: str, check: bool = True) -> Any:
    return machine.run("sh", f"{WHEELHOUSE}/install.sh", *options, check=check)


@pytest.fixture
def profile(service: Service) -> Iterator[dict[str, Any]]:
    """The profile as it was brought; it is served again afterwards."""
    path = service.machine.root / PROFILE.lstrip("/")
    good: dict[str, Any] = json.loads(path.read_text())
    yield good
    install(service.machine, "--profile", PROFILE)
    service.answer(1)


def bring(machine: Box, profile: dict[str, Any]) -> str:
    (machine.root / "root/other.json").write_text(json.dumps(profile))
    return "/root/other.json"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"contxt": 5}, 'models[0].contxt: unknown key; did you mean "context"?'),
        ({"preload": ["file:kind.txt"]}, "install -D -m 644 /root/kind.txt /etc/rayhost/kind.txt"),
        ({"source": "file:/srv/none.gguf"}, "the running host refuses the profile"),
    ],
)
def test_a_profile_that_cannot_be_served_is_told_and_that_of_before_stays(
    service: Service, profile: dict[str, Any], changed: dict[str, Any], why: str
) -> None:
    service.answer(1)
    before = (service.machine.root / "etc/rayhost/profile.json").read_bytes()
    bad = {**profile, "models": [{**profile["models"][0], **changed}]}
    refused = install(service.machine, "--profile", bring(service.machine, bad), check=False)
    assert refused.returncode == 1
    assert why in refused.stderr
    assert (service.machine.root / "etc/rayhost/profile.json").read_bytes() == before
    assert install(service.machine).stdout == NOTHING


def test_a_file_that_cannot_be_written_ends_it_and_the_next_run_finishes(service: Service) -> None:
    install(service.machine, "--cpus", "")
    run = service.machine.run
    run("mount", "--bind", SLICE, SLICE)
    try:
        run("mount", "-o", "remount,bind,ro", SLICE)
        failed = install(service.machine, "--cpus", "0", check=False)
    finally:
        run("umount", SLICE)
    assert failed.returncode != 0
    assert "restart" not in failed.stdout
    # Asked without --cpus: what the run before was told holds.
    assert f"write {SLICE}" in install(service.machine).stdout
    assert service.machine.show("rayhost.slice", "AllowedCPUs") == "0"
    assert install(service.machine).stdout == NOTHING
    install(service.machine, "--cpus", "")
    assert service.machine.show("rayhost.slice", "AllowedCPUs") == ""


def test_a_run_that_was_interrupted_is_finished_by_the_next(service: Service) -> None:
    stub = service.machine.root / "root/stub/systemctl"
    stub.parent.mkdir(exist_ok=True)
    stub.write_text(
        '#!/bin/sh\n[ "$1" != restart ] || { kill -HUP $PPID; exit 1; }\nexec /bin/systemctl "$@"\n'
    )
    stub.chmod(0o755)
    upgrade = f"{UPGRADE}/install.sh"
    cut = service.machine.run("sh", "-c", f"PATH=/root/stub:$PATH exec sh {upgrade}", check=False)
    assert cut.returncode == 1
    assert "restart rayhost.service" in cut.stdout
    finished = service.machine.run("sh", upgrade).stdout
    assert finished == "install: restart rayhost.service\n"
    release = service.machine.run("readlink", "/opt/rayhost/current").stdout.strip()
    assert release in service.machine.run("cat", f"/proc/{service.front}/cmdline").stdout
    assert service.machine.run("sh", upgrade).stdout == NOTHING
    service.answer(1)


def test_keys_that_the_service_cannot_read_are_given_to_it(service: Service) -> None:
    service.machine.run("chown", "root:root", "/etc/rayhost/keys.json")
    service.machine.run("chmod", "600", "/etc/rayhost/keys.json")
    said = service.machine.run("sh", f"{UPGRADE}/install.sh").stdout
    assert said == "install: let the service read /etc/rayhost/keys.json\n"
    owner = service.machine.run("stat", "-c", "%U:%G %a", "/etc/rayhost/keys.json").stdout
    assert owner == "root:rayhost 640\n"


def test_a_reload_finds_an_admin_socket_of_the_profile(
    service: Service, profile: dict[str, Any]
) -> None:
    path = bring(service.machine, {**profile, "listen": {"admin_socket": "/run/rayhost/a.sock"}})
    install(service.machine, "--profile", path)
    service.machine.run("systemctl", "reload", "rayhost.service")
