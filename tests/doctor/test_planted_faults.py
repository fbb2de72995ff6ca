"""The doctor on a machine with faults: each is found, alone and among the others."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from rayhost.cli.examination import Examination, Subject
from rayhost.doctor.build import Build
from rayhost.doctor.finding import exit_status
from rayhost.front.state import MemoryState, ProfileState
from tests.cli import states
from tests.doctor.machine import GENERIC, NGINX, PROFILE, Machine, answering
from tests.support.host import command

Fault = Callable[[Machine], object]


@pytest.fixture
def machine(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path / "m", tiny_model)
    monkeypatch.setenv("RAYHOST_HOME", str(made.home))
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    return made


def open_socket(machine: Machine) -> None:
    machine.socket.parent.mkdir(parents=True)
    machine.socket.touch(0o666)
    machine.socket.chmod(0o666)


def from_the_future(machine: Machine) -> None:
    os.utime(machine.profile, (time.time() + 7200,) * 2)


def serving_another(machine: Machine) -> None:
    machine.state = states.host(
        states.model("old"),
        version=machine.state.version,
        profile=ProfileState({"models.old": "0"}),
    )


def not_applied(machine: Machine) -> None:
    changed = {**PROFILE, "limits": {"queue": 7}, "cpus": {"front": [0]}}
    machine.write("etc/rayhost/profile.json", json.dumps(changed))


def not_restarted(machine: Machine) -> None:
    machine.state = msgspec.structs.replace(
        machine.state,
        profile=ProfileState(machine.state.profile.digests, need_restart=("listen.port",)),
    )


def failed_model(machine: Machine) -> None:
    failed = states.model("tiny", state="failed", reason="no memory")
    machine.state = states.host(failed, version=machine.state.version)


def short_of_memory(machine: Machine) -> None:
    memory = MemoryState(rungs=("caches",), reason="the sum does not fit")
    machine.state = states.host(states.model("tiny"), version=machine.state.version, memory=memory)


def other_version(machine: Machine) -> None:
    machine.state = states.host(states.model("tiny"), version="0.0.1")


def generic_build(machine: Machine) -> None:
    machine.build = Build(GENERIC)


def foreign_build(machine: Machine) -> None:
    machine.build = Build("", -signal.SIGILL)


def changed_unit(machine: Machine) -> None:
    path = machine.root / "etc/systemd/system/rayhost.service"
    path.write_text(path.read_text().replace("TimeoutStopSec=50", "TimeoutStopSec=5"))


def snapshots_for_a_larger_disk(machine: Machine) -> None:
    model = {**PROFILE["models"][0], "snapshots": {"disk_mb": 1 << 20}}
    machine.write_profile({**PROFILE, "models": [model]})


def hidden_model(machine: Machine) -> None:
    path = machine.root / "root/m.gguf"
    path.parent.mkdir()
    path.write_bytes(machine.model.read_bytes())
    model = {**PROFILE["models"][0], "source": f"file:{path}"}
    machine.write_profile({**PROFILE, "models": [model]})


def closed_prompt(machine: Machine) -> None:
    machine.write("etc/rayhost/prompt.txt", "You are helpful.", 0o600)
    model = {**PROFILE["models"][0], "preload": ["file:prompt.txt"]}
    machine.write_profile({**PROFILE, "models": [model]})


# Commands of a machine with the service, where this one may lack them.
KNOWN = {"rayhost", "systemctl", "runuser", "sysctl", "timedatectl", "journalctl"}

FAULTS: dict[str, tuple[Fault, str, str]] = {
    "generic build": (generic_build, "error: build", "compiled without AVX2, FMA, F16C, AVX-512"),
    "build for another CPU": (foreign_build, "error: build", "dies of an illegal instruction"),
    "control group": (
        lambda one: one.write("sys/fs/cgroup/memory.max", f"{100 << 20}\n"),
        "error: memory", "does not fit into 100 MiB",
    ),
    "slice": (
        lambda one: one.write("sys/fs/cgroup/rayhost.slice/memory.max", f"{64 << 20}\n"),
        "error: memory", "does not fit into the 64 MiB of rayhost.slice",
    ),
    "swap": (
        lambda one: one.write("proc/meminfo", "MemTotal: 4194304 kB\nSwapTotal: 9 kB\n"),
        "warning: swap", "vm.swappiness is 60",
    ),
    "huge pages": (
        lambda one: one.write("sys/kernel/mm/transparent_hugepage/defrag", "[always] never\n"),
        "warning: huge pages", "compacting memory",
    ),
    "open files": (lambda one: one.limit_files(256), "error: open files", "at most 256 files"),
    "clock": (from_the_future, "warning: clock", "in the future"),
    "port": (lambda one: one.held_by("nginx"), "error: port", "held by nginx (pid 7)"),
    "keys": (
        lambda one: (one.root / "etc/rayhost/keys.json").chmod(0o644),
        "error: permissions", "keys.json (keys) has mode 0644",
    ),
    "profile": (lambda one: one.profile.chmod(0o666), "error: permissions", "(profile) has mode"),
    "admin socket": (open_socket, "error: permissions", "(admin socket) has mode 0666"),
    "drift of models": (serving_another, "warning: drift", "tiny is not served, old is served"),
    "drift of settings": (not_applied, "warning: drift", "not applied: limits, cpus"),
    "drift until a restart": (not_restarted, "warning: drift", "before a restart: listen.port"),
    "drift of the version": (other_version, "warning: drift", "version 0.0.1 runs"),
    "failed model": (failed_model, "error: model", "model tiny is failed: no memory"),
    "degraded host": (short_of_memory, "warning: memory", "given up for memory: caches"),
    "disk": (snapshots_for_a_larger_disk, "warning: disk", "snapshots up to"),
    "unit": (changed_unit, "warning: units", "rayhost.service"),
    "proxy that buffers": (
        lambda one: one.write(
            "etc/nginx/conf.d/rayhost.conf",
            NGINX.replace("proxy_buffering off", "proxy_ignore_headers X-Accel-Buffering"),
        ),
        "error: proxy", "no `proxy_buffering off`",
    ),
    "open metrics": (
        lambda one: one.write("etc/caddy/Caddyfile", "a.org {\n reverse_proxy 127.0.0.1:8080\n}\n"),
        "warning: proxy", "leads to /metrics",
    ),
    "model file": (lambda one: one.model.write_bytes(b"GGUF"), "error: model", "has changed"),
    "model bytes": (lambda one: one.rot(), "error: model", "has sha256"),
    "drop-in": (
        lambda one: one.write(
            "etc/systemd/system/rayhost.service.d/a.conf",
            "[Service]\nNoNewPrivileges=no\nProtectSystem=no\nTimeoutStopSec=1\nNice=1\n"
            "Environment=A=b\nUMask=0077\n",
        ),
        "warning: units", "changes NoNewPrivileges, ProtectSystem, TimeoutStopSec of",
    ),
    "units not read again": (
        lambda one: setattr(one, "unread", "rayhost.service"),
        "warning: units", "has not read them again: rayhost.service",
    ),
    "hidden model": (hidden_model, "error: model", "a folder that the service cannot see"),
    "closed prompt": (closed_prompt, "error: model", "prompt.txt (model) cannot be read by"),
    "closed keys": (
        lambda one: (one.root / "etc/rayhost/keys.json").chmod(0o600),
        "error: permissions", "keys.json (keys) cannot be read by rayhost",
    ),
    "closed profile": (lambda one: one.profile.chmod(0o600), "error: permissions", "(profile) can"),
    "closed store": (
        lambda one: one.model.parent.chmod(0o700), "error: model", "models/tiny is closed to it",
    ),
    "quota": (
        lambda one: one.write("sys/fs/cgroup/rayhost.slice/cpu.max", "50000 100000\n"),
        "warning: cpus", "rayhost.slice may use 0.5 CPUs",
    ),
    "profile that is not valid": (
        lambda one: one.write("etc/rayhost/profile.json", '{"models": [], "limit": 1}'),
        "error: profile", "limit",
    ),
}  # fmt: skip


def heads(machine: Machine) -> list[tuple[str, str]]:
    return [(f"{one.severity}: {one.check}", one.what) for one in machine.examined(deep=True)]


def test_a_sound_machine_has_nothing(machine: Machine) -> None:
    assert machine.examined(deep=True) == []


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(machine: Machine, name: str) -> None:
    plant, head, words = FAULTS[name]
    plant(machine)
    found = heads(machine)
    assert [one for one in found if one[0] == head and words in one[1]], found
    for one in machine.examined(deep=True):
        assert one.why
        assert one.fix
        assert subprocess.run(["sh", "-n", "-c", one.fix], check=False).returncode == 0
        assert shutil.which(one.fix.split()[0]) or one.fix.split()[0] in KNOWN


@pytest.mark.parametrize(
    ("source", "fix"),
    [
        ("pypi:tiny==1", "rayhost pull pypi:tiny==1 --name tiny && rayhost reload"),
        ("file:none.gguf", "ls -l {etc}/none.gguf"),
    ],
)
def test_a_model_is_mended_where_the_service_has_it(
    machine: Machine, source: str, fix: str
) -> None:
    machine.model.write_bytes(b"GGUF")
    model = {**PROFILE["models"][0], "name": "Tiny", "source": source}
    machine.write_profile({**PROFILE, "models": [model]})
    (found,) = (one for one in machine.examined() if one.check == "model")
    runner = f"runuser -u rayhost -- env RAYHOST_HOME={machine.home} "
    wanted = fix.format(etc=machine.profile.parent)
    assert found.fix == (runner + wanted if "pull" in fix else wanted)


def test_a_profile_that_is_not_valid_hides_no_other_fault(machine: Machine) -> None:
    FAULTS["swap"][0](machine)
    FAULTS["drop-in"][0](machine)
    machine.held_by("nginx")
    machine.write("etc/rayhost/profile.json", '{"listen": [], "limits": null}')
    checks = {one.check for one in machine.examined()}
    assert checks == {"profile", "swap", "units", "port"}
    done = told(machine)
    assert (done.returncode, done.stderr) == (2, "")
    assert "profile" in {one["check"] for one in json.loads(done.stdout)}


def test_a_service_fits_itself_into_its_slice(machine: Machine) -> None:
    limit = 400 << 20  # less than the profile would take of the whole machine
    machine.write_profile({"models": [{**PROFILE["models"][0], "snapshots": {"ram_mb": 2000}}]})
    machine.write_units()
    machine.write("sys/fs/cgroup/rayhost.slice/memory.max", f"{limit}\n")
    assert [one for one in machine.examined() if one.check == "memory"] == []


def test_ten_faults_at_once_are_ten_findings(machine: Machine) -> None:
    ten = (
        "generic build", "slice", "swap", "huge pages", "open files", "keys", "drift of models",
        "unit", "proxy that buffers", "model bytes",
    )  # fmt: skip
    for name in ten:
        FAULTS[name][0](machine)
    found = heads(machine)
    for name in ten:
        _, head, words = FAULTS[name]
        assert [one for one in found if one[0] == head and words in one[1]], name
    assert len(found) == len(ten)


def test_only_a_deep_look_reads_the_models(machine: Machine) -> None:
    machine.rot()
    assert machine.examined() == []
    assert exit_status(machine.examined(deep=True)) == 2


def test_an_installed_service_that_does_not_run_is_an_error(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayhost.admin_socket.SERVICE_FOLDER", machine.root / "run/rayhost")
    subject = Subject(machine.profile, None, False, machine.root, lambda: machine.build)
    (found,) = (one for one in Examination(subject).findings() if one.severity == "error")
    assert (found.check, "no host answers" in found.what) == ("service", True)


def test_a_socket_at_which_nobody_answers_is_told(machine: Machine) -> None:
    (found,) = (one for one in json.loads(told(machine).stdout) if one["check"] == "running host")
    assert str(machine.socket) in found["what"]


def test_what_cannot_be_read_is_told_and_hides_nothing(machine: Machine) -> None:
    (machine.root / "proc/cpuinfo").unlink()
    machine.limit_files(1)
    checks = {one.check: one.severity for one in machine.examined()}
    assert checks == {"build": "warning", "open files": "error"}


def told(machine: Machine) -> "subprocess.CompletedProcess[str]":
    given = ("--root", str(machine.root), "--socket", str(machine.socket))
    return subprocess.run(
        command("doctor", *given, "--json"), check=False, capture_output=True, text=True
    )


def test_the_exit_status_and_the_json_say_the_same(machine: Machine) -> None:
    # The real CPU and build, so that nothing but what is planted differs from machine to machine.
    machine.write("proc/cpuinfo", "model name : Plain\nflags : fpu\n")
    machine.limit_files(1)
    with answering(machine):
        errors = told(machine)
        machine.limit_files(131072)
        from_the_future(machine)
        warnings = told(machine)
    assert (errors.returncode, warnings.returncode) == (2, 1), errors.stderr + warnings.stderr
    (error,) = (one for one in json.loads(errors.stdout) if one["severity"] == "error")
    assert set(error) == {"check", "severity", "what", "why", "fix", "advice"}
    assert error["check"] == "open files"
    assert "error" not in {one["severity"] for one in json.loads(warnings.stdout)}
