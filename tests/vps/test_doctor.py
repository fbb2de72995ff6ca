"""The doctor on an installed service: nothing is wrong, and then each of these faults is."""

import json
from typing import NamedTuple

import pytest

from tests.vps.clients import Service

# Of the machine around the box, which the box cannot change.
THEIRS = {"clock", "swap", "huge pages"}
PROFILE = "/etc/rayhost/profile.json"
UNITS = "/etc/systemd/system"
FRONT = "$(systemctl show --value --property=MainPID rayhost.service)"
NGINX = "server { listen 81; location / { proxy_pass http://127.0.0.1:8080; } }"
OFTEN = "[Service]\\nWatchdogSec=1h\\n"


class Fault(NamedTuple):
    """What is done to the machine, what undoes it, and what the doctor has to say in between."""

    plant: str
    undo: str
    check: str
    said: str
    options: tuple[str, ...] = ()


def profile_with(old: str, new: str) -> tuple[str, str]:
    """Return how the profile gets a fault, and how it gets rid of it."""
    return f"cp -p {PROFILE} /root/good && sed -i 's|{old}|{new}|' {PROFILE}", (
        f"cp -p /root/good {PROFILE}"
    )


FAULTS = {
    "keys that all can read": Fault(
        "chmod 666 /etc/rayhost/keys.json", "chmod 640 /etc/rayhost/keys.json",
        "permissions", "/etc/rayhost/keys.json (keys) has mode 0666",
    ),
    "an admin socket for all": Fault(
        "chmod 666 /run/rayhost/8080.sock", "chmod 600 /run/rayhost/8080.sock",
        "permissions", "/run/rayhost/8080.sock (admin socket) has mode 0666",
    ),
    "a profile that the service cannot read": Fault(
        f"chmod 600 {PROFILE}", f"chmod 644 {PROFILE}",
        "permissions", f"{PROFILE} (profile) cannot be read by rayhost",
    ),
    "a unit that somebody changed": Fault(
        f"sed -i s/CPUWeight=80/CPUWeight=100/ {UNITS}/rayhost.slice",
        f"sed -i s/CPUWeight=100/CPUWeight=80/ {UNITS}/rayhost.slice && systemctl daemon-reload",
        "units", "rayhost.slice",
    ),
    "a drop-in": Fault(
        f"mkdir {UNITS}/rayhost.service.d && printf '{OFTEN}' > {UNITS}/rayhost.service.d/a.conf",
        f"rm -r {UNITS}/rayhost.service.d && systemctl daemon-reload",
        "units", "rayhost.service.d/a.conf",
    ),
    "a profile that was not applied": Fault(
        *profile_with("^{", '{"cache": {"bytes": 1},'), "drift", "not applied: cache",
    ),
    "a model that does not fit": Fault(
        *profile_with('"concurrency": 4', '"concurrency": 64'), "memory", "does not fit into",
    ),
    "snapshots larger than the disk": Fault(
        *profile_with('"concurrency": 4', '"concurrency": 4, "snapshots": {"disk_mb": 1048576}'),
        "disk", "snapshots up to",
    ),
    "another file than the one chosen": Fault(
        *profile_with('"concurrency": 4', f'"concurrency": 4, "sha256": "{"0" * 64}"'),
        "model", "smollm2-135m", ("--deep",),
    ),
    "a profile from the future": Fault(
        f"touch --date='2 hours' {PROFILE}", f"touch {PROFILE}", "clock", "in the future",
    ),
    "too few open files": Fault(
        f"prlimit --nofile=512:512 --pid={FRONT}", "systemctl restart rayhost.service",
        "open files", "at most 512 files may be open",
    ),
    "a proxy that buffers": Fault(
        f"echo '{NGINX}' > /etc/nginx/conf.d/mine.conf", "rm /etc/nginx/conf.d/mine.conf",
        "proxy", "/etc/nginx/conf.d/mine.conf has no `proxy_buffering off`",
    ),
    "a port that another took": Fault(
        "systemctl stop rayhost.socket rayhost.service && "
        "systemd-run --quiet --unit=squatter python3 -m http.server 8080 && "
        "curl -s -o /dev/null --retry 20 --retry-connrefused 127.0.0.1:8080",
        "systemctl stop squatter && systemctl start rayhost.socket rayhost.service",
        "port", "port 8080 is held by python3",
    ),
}  # fmt: skip


def findings(service: Service, *options: str) -> list[dict[str, str]]:
    """Return what the doctor of the box says."""
    said = service.machine.run("rayhost", "doctor", "--json", *options, check=False)
    found: list[dict[str, str]] = json.loads(said.stdout)
    return found


def do(service: Service, command: str) -> None:
    service.machine.run("sh", "-ec", command)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_it_finds_a_planted_fault(service: Service, fault: Fault) -> None:
    try:
        do(service, fault.plant)
        found = findings(service, *fault.options)
    finally:
        do(service, fault.undo)
    wanted = [one for one in found if one["check"] == fault.check and fault.said in one["what"]]
    assert wanted, found
    assert wanted[0]["fix"]


def test_it_finds_nothing_else(service: Service) -> None:
    service.answer(1)
    assert [one for one in findings(service) if one["check"] not in THEIRS] == []
    do(service, "chmod 666 /etc/rayhost/keys.json")
    (keys,) = (one for one in findings(service) if one["check"] not in THEIRS)
    do(service, keys["fix"])
    assert [one for one in findings(service) if one["check"] not in THEIRS] == []
