"""The installed service under real systemd: restarts, kills, hangs, reloads, upgrades."""

import json
import re
import threading
import time
from collections.abc import Callable

from tests.support.waiting import eventually
from tests.vps.box import CPU, MEMORY
from tests.vps.clients import Service
from tests.vps.conftest import UPGRADE

Measured = Callable[[str], None]
CLIENTS = 4
BACK_S = 3.0  # what a kill may cost, on a CPU of its own
LIMITS = ("High", "Max")
UNITS = ("rayhost.service", "rayhost.socket", "rayhost.slice")


def said_since(service: Service, cursor: str) -> str:
    return service.machine.journal(f"--after-cursor={cursor}")


def cursor(service: Service) -> str:
    lines = service.machine.journal("--lines=0", "--show-cursor").splitlines()
    return lines[-1].removeprefix("-- cursor: ")


def test_the_units_are_right_and_closed(service: Service, measured: Measured) -> None:
    assert service.machine.run("systemd-analyze", "verify", *UNITS).stderr == ""
    told = service.machine.run("systemd-analyze", "security", "rayhost.service").stdout
    (level,) = re.findall(r"exposure level for rayhost.service: (\S+)", told)
    exposure = float(level)
    measured(f"systemd-analyze security: {exposure}")
    assert exposure <= 2.0


def test_the_hardening_holds_in_front_and_worker(service: Service) -> None:
    service.answer(1)
    for pid in (service.front, service.worker):
        status = service.machine.run("cat", f"/proc/{pid}/status").stdout
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
        assert int(fields["CapBnd"], 16) == 0
    adjust = service.machine.run("cat", f"/proc/{service.front}/oom_score_adj").stdout
    worse = service.machine.run("cat", f"/proc/{service.worker}/oom_score_adj").stdout
    assert int(adjust) <= 0 < int(worse) == 500  # a container may not lower it: the front has 0


def test_the_slice_bounds_all_of_it_and_that_is_the_governors_room(service: Service) -> None:
    service.answer(1)
    high, most = (int(service.machine.show("rayhost.slice", f"Memory{one}")) for one in LIMITS)
    assert MEMORY // 2 <= high < most < MEMORY
    group = "/sys/fs/cgroup/memory/rayhost.slice"
    limit = int(service.machine.run("cat", f"{group}/memory.limit_in_bytes").stdout)
    assert limit == most
    inside = service.machine.run("cat", f"{group}/rayhost.service/cgroup.procs").stdout.split()
    assert {service.front, service.worker} <= set(inside)
    memory = service.state()["memory"]
    assert memory["limit_bytes"] == limit
    assert memory["needed_bytes"] <= memory["allowed_bytes"] < limit


def test_the_cpus_of_the_profile_hold(service: Service) -> None:
    service.answer(1)
    for pid in (service.front, service.worker):
        status = service.machine.run("cat", f"/proc/{pid}/status").stdout
        assert f"Cpus_allowed_list:\t{CPU}\n" in status
    profile = service.machine.root / "etc/rayhost/profile.json"
    good = profile.read_text()
    try:
        profile.write_text(good.replace("{", '{"cpus": {"front": [4000]}, ', 1))
        refused = service.machine.run("systemctl", "reload", "rayhost.service", check=False)
    finally:
        profile.write_text(good)
    assert refused.returncode != 0
    assert f"cpus.front names [4000], but this process may use [{CPU}]" in service.machine.journal(
        "--lines=20"
    )
    service.answer(1)


def test_restarts_refuse_nobody_and_cut_nothing(service: Service, measured: Measured) -> None:
    service.answer(1)
    never = threading.Event()
    began, restarts = time.monotonic(), 0
    with service.clients(CLIENTS) as tally:
        while (left_s := began + 10 * (restarts + 1) - time.monotonic()) and restarts < 6:
            never.wait(max(0.0, left_s))
            service.machine.run("systemctl", "restart", "rayhost.service")
            restarts += 1
    measured(
        f"{restarts} restarts in {time.monotonic() - began:.0f} s: {tally.whole} whole answers, "
        f"{len(tally.wrong)} others; slowest {tally.slowest_s:.1f} s"
    )
    assert tally.wrong == []
    assert tally.whole > 6 * CLIENTS


def test_a_killed_front_is_back_within_seconds(service: Service, measured: Measured) -> None:
    service.answer(1)
    front, mark, crowding = service.front, cursor(service), service.crowding()
    began = time.monotonic()
    service.machine.run("kill", "-KILL", front)
    service.answer(1)
    took_s = time.monotonic() - began
    measured(f"front killed: answered again after {took_s:.1f} s")
    assert service.front not in (front, "0")
    assert took_s < BACK_S * max(crowding, service.crowding())
    assert "Main process exited, code=killed, status=9/KILL" in said_since(service, mark)


def test_a_killed_worker_is_back_within_seconds_and_its_answers_go_on(
    service: Service, measured: Measured
) -> None:
    service.answer(1)
    worker, front, mark = service.worker, service.front, cursor(service)
    crowding = service.crowding()
    with service.clients(CLIENTS) as tally:
        eventually(lambda: tally.whole, "the clients")
        began = time.monotonic()
        service.machine.run("kill", "-KILL", worker)
        eventually(lambda: service.worker not in ("", worker), "the next worker")
        service.answer(1)
        took_s = time.monotonic() - began
    measured(f"worker killed: answered again after {took_s:.1f} s")
    assert tally.wrong == []
    assert service.front == front
    assert took_s < BACK_S * max(crowding, service.crowding())
    lines = service.machine.journal(f"--after-cursor={mark}", "--output=json").splitlines()
    entries = [json.loads(line) for line in lines]
    (entry,) = (one for one in entries if one.get("RAYHOST_EVENT") == "worker lost")
    assert (entry["RAYHOST_MODEL"], entry["PRIORITY"]) == ("smollm2-135m", "3")
    assert "killed by SIGKILL" in entry["RAYHOST_REASON"]


def test_a_front_that_stands_still_is_started_anew_by_the_watchdog(
    service: Service, measured: Measured
) -> None:
    service.answer(1)
    front, mark = service.front, cursor(service)
    began = time.monotonic()
    service.machine.run("kill", "-STOP", front)
    service.answer(1)
    measured(f"front stopped: answered again after {time.monotonic() - began:.1f} s")
    assert service.front not in (front, "0")
    assert "Watchdog timeout" in said_since(service, mark)


def test_a_reload_takes_in_the_profile_or_says_why_not(service: Service) -> None:
    profile = service.machine.root / "etc/rayhost/profile.json"
    good = profile.read_text()
    front, worker = service.front, service.worker
    try:
        profile.write_text(good.replace('"context": 1024', '"context": 1'))
        refused = service.machine.run("systemctl", "reload", "rayhost.service", check=False)
        assert refused.returncode != 0
        assert "models[0].context: 1 is not valid" in service.machine.journal("--lines=20")
        assert (service.front, service.worker) == (front, worker)
        with service.clients(CLIENTS) as tally:
            # Sizes alone are taken up by the worker that there is.
            smaller = good.replace('"context": 1024', '"context": 512')
            profile.write_text(smaller)
            service.machine.run("systemctl", "reload", "rayhost.service")
            eventually(
                lambda: service.state()["models"][0]["kv_cells"] == 4 * 512, "the smaller context"
            )
            assert (service.front, service.worker) == (front, worker)
            profile.write_text(smaller.replace('"context"', '"inter_token_ms": 99, "context"'))
            service.machine.run("systemctl", "reload", "rayhost.service")
        assert tally.wrong == []
        assert (service.front, service.worker != worker) == (front, True)
    finally:
        profile.write_text(good)
    assert service.machine.show("rayhost.service", "ActiveState") == "active"


def test_a_key_that_is_added_works_at_once_and_a_secret_after_a_restart(service: Service) -> None:
    file = "/etc/rayhost/keys.json"
    added = service.machine.run("rayhost", "key", "add", "second", "--file", file).stdout.strip()
    Service(service.machine, added).answer(1)
    (service.machine.root / "etc/rayhost/secrets/HF_TOKEN").write_text("hf_secret")
    service.machine.run("systemctl", "restart", "rayhost.service")
    environment = service.machine.run("cat", f"/proc/{service.worker}/environ").stdout
    assert "HF_TOKEN=hf_secret" in environment.split("\0")


def test_an_upgrade_and_the_way_back_lose_no_answer(service: Service, measured: Measured) -> None:
    def release() -> str:
        return service.machine.run("readlink", "/opt/rayhost/current").stdout.strip()

    first = release()
    with service.clients(CLIENTS) as tally:
        began = time.monotonic()
        said = service.machine.run("sh", f"{UPGRADE}/install.sh").stdout
        took_s = time.monotonic() - began
        second = release()
        assert "restart rayhost.service" in said
        assert second != first
        service.machine.run("sh", f"{UPGRADE}/install.sh", "--rollback")
        assert release() == first
        assert first in service.machine.run("cat", f"/proc/{service.front}/cmdline").stdout
    measured(f"upgrade: {took_s:.1f} s; slowest answer {tally.slowest_s:.1f} s")
    assert tally.wrong == []
