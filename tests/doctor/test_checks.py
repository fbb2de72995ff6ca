"""Checks of the doctor by themselves: what is a fault, and what only looks like one."""

from pathlib import Path

import pytest

from rayhost.cli.doctor import text
from rayhost.doctor import build, clock, ports, proxy
from rayhost.doctor.build import Build
from rayhost.doctor.clock import Clock
from rayhost.doctor.finding import Finding, Severity, exit_status, worst_first
from rayhost.doctor.ports import Holder
from rayhost.doctor.proxy import Configuration
from tests.doctor.machine import GENERIC, NATIVE, NGINX

CPU = ("AVX2", "FMA", "F16C", "AVX-512", "AVX-512 VNNI", "AMX INT8")


def finding(severity: Severity) -> Finding:
    return Finding("x", severity, "what", "why", "fix")


@pytest.mark.parametrize(
    ("severities", "status"),
    [((), 0), (("note",), 0), (("note", "warning"), 1), (("error", "warning"), 2)],
)
def test_the_worst_finding_is_the_exit_status(
    severities: tuple[Severity, ...], status: int
) -> None:
    found = [finding(one) for one in severities]
    assert exit_status(found) == status


def test_the_worst_is_told_first_with_its_fix() -> None:
    told = text(worst_first([finding("note"), finding("error"), finding("warning")])).splitlines()
    assert [line.partition(":")[0] for line in told if line[0] != " "][:3] == [
        "error", "warning", "note",
    ]  # fmt: skip
    assert told[1:3] == ["    why: why", "    fix: fix"]
    assert told[-1] == "1 errors, 1 warnings, 1 notes"


@pytest.mark.parametrize(
    ("info", "flags", "severities"),
    [
        (NATIVE, CPU, []),
        (GENERIC, (), []),
        (GENERIC, CPU, ["error"]),
        ("CPU : AVX2 = 1 | F16C = 1 | FMA = 1 | ", CPU, ["warning"]),
        (NATIVE + "AMX_INT8 = 1 | ", CPU, ["warning"]),
        ("CPU : NEON = 1 | ", ("NEON", "NEON dot product"), ["warning"]),
        ("CPU : NEON = 1 | DOTPROD = 1 | ", ("NEON", "NEON dot product"), []),
    ],
)
def test_a_build_is_held_against_the_cpu(
    info: str, flags: tuple[str, ...], severities: list[str]
) -> None:
    assert [one.severity for one in build.check(Build(info), flags)] == severities


def test_a_build_that_does_not_run_says_why() -> None:
    (found,) = build.check(Build("", 1, "ModuleNotFoundError: llama_cpp"), CPU)
    assert found.severity == "error"
    assert "ModuleNotFoundError: llama_cpp" in found.what


def test_the_build_of_this_environment_can_be_asked() -> None:
    asked = build.read()
    assert asked.status == 0, asked.said
    assert "CPU" in asked.info


@pytest.mark.parametrize(
    ("inodes", "holders", "severities"),
    [
        ((), [], []),
        (("4",), [Holder(1, "systemd", "/sbin/init")], []),
        (("4",), [Holder(1, "systemd", "/sbin/init"), Holder(9, "python", "rayhost serve")], []),
        (("4",), [Holder(9, "nginx", "nginx: master")], ["error"]),
        (("4",), [], ["note"]),
    ],
)
def test_a_port_is_ours_systemds_or_a_strangers(
    inodes: tuple[str, ...], holders: list[Holder], severities: list[str]
) -> None:
    found = ports.check(8080, frozenset(inodes), holders)
    assert [one.severity for one in found] == severities


@pytest.mark.parametrize(
    ("arrivals_s", "lump"),
    [
        ((0.1, 0.5, 1.0), False),
        ((0.99, 0.995, 1.0), True),
        ((0.09, 0.095, 0.1), False),  # too short to tell
        ((1.0,), False),
        ((), False),
    ],
)
def test_events_that_come_together_at_the_end_are_a_lump(
    arrivals_s: tuple[float, ...], lump: bool
) -> None:
    assert bool(list(proxy.check_arrivals("https://a.org", arrivals_s))) is lump


@pytest.mark.parametrize(
    ("line", "by", "severities"),
    [
        ("proxy_buffering off", "proxy_buffering off", []),
        ("proxy_buffering off", "proxy_buffering on", ["warning"]),
        ("proxy_read_timeout 1h", "keepalive_timeout 9s", ["warning"]),
    ],
)
def test_an_nginx_that_would_spoil_answers_is_told(
    line: str, by: str, severities: list[str]
) -> None:
    one = Configuration(Path("/etc/nginx/conf.d/a.conf"), NGINX.replace(line, by))
    assert [found.severity for found in proxy.check([one])] == severities


def test_only_files_that_lead_to_our_port_are_looked_at(tmp_path: Path) -> None:
    folder = tmp_path / "etc/nginx/sites-enabled"
    folder.mkdir(parents=True)
    (folder / "ours").write_text("location / { proxy_pass http://127.0.0.1:8080; }")
    (folder / "other").write_text("location / { proxy_pass http://127.0.0.1:80801; }")
    (folder / "comment").write_text("# proxy_pass http://127.0.0.1:8080;\nlisten 8080;")
    found = proxy.read_configurations(tmp_path, 8080)
    assert [one.path.name for one in found] == ["ours"]


@pytest.mark.parametrize(
    ("reading", "count"),
    [
        (Clock(True, 1000.0, 900.0), 0),
        (Clock(None, 1000.0, 1100.0), 0),
        (Clock(False, 1000.0, 900.0), 1),
        (Clock(False, 1000.0, 1400.0), 2),
    ],
)
def test_a_clock_is_wrong_that_is_free_or_was_set_back(reading: Clock, count: int) -> None:
    assert len(list(clock.check(reading))) == count
