"""The files of a deployment: made from a profile and a machine, and right for their tools."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from rayhost import profile as profiles
from rayhost.deploy.files import GROUPS, render
from rayhost.deploy.machine import Machine, this_machine
from rayhost.deploy.settings import memory_limits, settings
from rayhost.errors import RayhostError
from rayhost.machine_share import system_part
from tests.support.host import command

GIB = 1 << 30
MIB = 1 << 20
SMALL = Machine(GIB)


def unit(text: str) -> dict[str, list[str]]:
    """The directives of a unit, in all its sections."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_the_units_say_what_profile_and_machine_say() -> None:
    profile = {"listen": {"host": "0.0.0.0", "port": 9000}, "limits": {"drain_s": 45}}
    files = render(settings(profile, SMALL, "1-2"), "systemd")
    assert set(files) == {f"systemd/rayhost.{kind}" for kind in ("service", "slice", "socket")}
    assert unit(files["systemd/rayhost.socket"])["ListenStream"] == ["0.0.0.0:9000"]
    slice_ = unit(files["systemd/rayhost.slice"])
    assert (slice_["MemoryHigh"], slice_["MemoryMax"]) == (["928M"], ["976M"])
    assert slice_["AllowedCPUs"] == ["1-2"]
    service = unit(files["systemd/rayhost.service"])
    assert service["TimeoutStopSec"] == ["65"]
    assert service["CPUAffinity"] == ["1-2"]
    assert service["SystemCallFilter"] == ["@system-service", "~@privileged"]


def test_without_cpus_nothing_is_pinned() -> None:
    text = "".join(render(settings({}, SMALL), "systemd").values())
    assert "AllowedCPUs" not in text
    assert "CPUAffinity" not in text


@pytest.mark.parametrize(
    ("cpus", "models", "pinned"),
    [
        ({"front": [0], "workers": [2, 1]}, [{}], "0,1,2"),
        ({"front": [0], "workers": [0]}, [{"cpus": [5]}, {"cpus": "auto"}], "0,5"),
        ({"front": [0]}, [{"cpus": [1]}], "3"),  # the rest is for workers: as asked
        ({}, [{}], "3"),
    ],
)
def test_a_profile_that_names_all_cpus_pins_the_units(
    cpus: dict[str, object], models: list[dict[str, object]], pinned: str
) -> None:
    made = settings({"cpus": cpus, "models": models}, SMALL, "3")
    assert unit(render(made, "systemd")["systemd/rayhost.slice"])["AllowedCPUs"] == [pinned]


def test_every_name_in_every_template_is_filled() -> None:
    files = render(settings({}, SMALL, "0"))
    assert {name.partition("/")[0] for name in files} == set(GROUPS)
    for name, text in files.items():
        assert "@{" not in text, name
        assert text.endswith("\n"), name


@pytest.mark.parametrize(
    ("host", "port", "address"),
    [
        ("127.0.0.1", 80, "127.0.0.1:80"),
        ("localhost", 80, "127.0.0.1:80"),
        ("::", 8080, "[::]:8080"),
    ],
)
def test_addresses_are_systemds(host: str, port: int, address: str) -> None:
    assert settings({"listen": {"host": host, "port": port}}, SMALL).address == address


@pytest.mark.parametrize(
    ("listen", "why"),
    [({"host": "example.org"}, "'example.org' is none"), ({"port": 0}, "fixed port, and 0")],
)
def test_what_systemd_cannot_listen_at_is_told(listen: dict[str, object], why: str) -> None:
    with pytest.raises(RayhostError, match=why):
        settings({"listen": listen}, SMALL)


@pytest.mark.parametrize("cpus", ["a", "1-", "0,,1", "0 1", "3-1", "0,5-4", "1\nExecStart=/bin/sh"])
def test_bad_cpus_are_told(cpus: str) -> None:
    with pytest.raises(RayhostError, match="are no CPUs"):
        settings({}, SMALL, cpus)


@pytest.mark.parametrize("total", [128 * MIB, 512 * MIB, GIB, 4 * GIB, 64 * GIB])
def test_the_system_keeps_some_memory_and_reclaim_comes_before_killing(total: int) -> None:
    high, most = memory_limits(total)
    assert total // 2 <= high <= most < total
    assert total - high == system_part(total) or high == total // 2  # as `rayhost plan` has it


def proc(folder: Path, total_kb: int) -> Path:
    folder.mkdir()
    (folder / "meminfo").write_text(f"MemFree: 1 kB\nMemTotal:  {total_kb} kB\n")
    return folder


@pytest.mark.parametrize(
    ("name", "limit", "memory"),
    [
        ("memory.max", "536870912", 512 * MIB),
        ("memory.max", "max", GIB),
        ("memory/memory.limit_in_bytes", "536870912", 512 * MIB),
        ("memory/memory.limit_in_bytes", "9223372036854771712", GIB),
        ("other", "1", GIB),
    ],
)
def test_a_cgroup_is_believed_before_meminfo(
    tmp_path: Path, name: str, limit: str, memory: int
) -> None:
    path = tmp_path / "cgroup" / name
    path.parent.mkdir(parents=True)
    path.write_text(f"{limit}\n")
    found = this_machine(proc(tmp_path / "proc", GIB >> 10), tmp_path / "cgroup")
    assert found == Machine(memory)


def test_examples_and_compose_are_yaml() -> None:
    yaml = importlib.import_module("yaml")
    profile = {"models": [{"name": "tiny"}], "listen": {"port": 9000}}
    files = render(settings(profile, SMALL))
    compose = yaml.safe_load(files["container/compose.yaml"])
    service = compose["services"]["rayhost"]
    assert service["ports"] == ["127.0.0.1:9000:9000"]
    assert (service["mem_limit"], service["stop_grace_period"]) == ("928M", "50s")
    cloud = yaml.safe_load(files["examples/cloud-init.yaml"])
    (play,) = yaml.safe_load(files["examples/ansible.yaml"])
    assert play["hosts"] == "all"
    for text in (cloud["write_files"][0]["content"], files["container/profile.json"]):
        profiles.parse(text.encode(), "example")
    assert "cpuset" not in service
    assert "rsync" in play["tasks"][0]["ansible.builtin.apt"]["name"]


def test_container_and_cloud_init_serve_the_profile_on_its_cpus() -> None:
    yaml = importlib.import_module("yaml")
    given = {"models": [{"name": "mine", "source": "file:/srv/a.gguf"}], "keys": "keys.json"}
    files = render(settings(given, SMALL, "0-1"))
    cloud = yaml.safe_load(files["examples/cloud-init.yaml"])
    assert json.loads(cloud["write_files"][0]["content"]) == given
    # Its keys are in the volume: beside the profile nothing can be written.
    assert json.loads(files["container/profile.json"]) == {"models": given["models"]}
    compose = yaml.safe_load(files["container/compose.yaml"])
    assert compose["services"]["rayhost"]["cpuset"] == "0-1"


def test_a_wheelhouse_with_another_digest_is_not_installed_by_cloud_init(tmp_path: Path) -> None:
    yaml = importlib.import_module("yaml")
    cloud = yaml.safe_load(render(settings({}, SMALL))["examples/cloud-init.yaml"])
    (line,) = cloud["runcmd"]
    # `true` in place of the download; none of what follows the check may run.
    script = f"curl() {{ true; }}; tar() {{ echo unpacked; }}; {line}"
    ran = subprocess.run(["sh", "-c", script], check=False, capture_output=True, text=True)
    assert ran.returncode != 0
    assert "unpacked" not in ran.stdout


@pytest.mark.parametrize(
    ("named", "options"),
    [
        (None, ""),
        ("admin.sock", " --socket /etc/rayhost/admin.sock"),
        ("/var/lib/rayhost/a.sock", " --socket /var/lib/rayhost/a.sock"),
    ],
)
def test_a_reload_asks_the_admin_socket_of_the_profile(named: str | None, options: str) -> None:
    made = settings({"listen": {"admin_socket": named}}, SMALL)
    service = unit(render(made, "systemd")["systemd/rayhost.service"])
    assert service["ExecReload"] == [f"/opt/rayhost/current/bin/rayhost reload{options}"]


def test_an_admin_socket_that_would_break_out_of_its_line_is_told() -> None:
    with pytest.raises(RayhostError, match="cannot stand in a unit"):
        settings({"listen": {"admin_socket": "a b"}}, SMALL)


def test_the_image_copies_what_its_build_reads_and_runs_without_root() -> None:
    lines = render(settings({}, SMALL))["container/Dockerfile"].splitlines()
    copied = {word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]}
    root = Path(__file__).parents[2]
    for name in copied - {"--from=build", "/opt/rayhost"}:
        assert (root / name).exists(), name
    stage = lines[max(n for n, line in enumerate(lines) if line.startswith("FROM ")) :]
    assert stage.index("USER 10001:10001") < stage.index('ENTRYPOINT ["rayhost"]')


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    tool = Path(sys.executable).with_name("hadolint")
    if not tool.exists():
        pytest.skip("hadolint is not installed here; to have it: make dev")
    text = render(settings({}, SMALL))["container/Dockerfile"]
    judged = subprocess.run(
        [tool, "--no-color", "-"], check=False, input=text, capture_output=True, text=True
    )
    assert (judged.returncode, judged.stdout) == (0, "")


def test_the_verb_and_the_bare_interpreter_write_the_same(tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"models": [{"name": "tiny"}], "listen": {"port": 9000}}))
    by_verb, bare = tmp_path / "verb", tmp_path / "bare"
    asked = ("--profile", profile, "--cpus", "0", "--memory", "2GiB")
    told = subprocess.run(
        command("deploy", "render", "--out", by_verb, *asked),
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    # -S: without what is installed, as install.sh runs it from the wheel.
    subprocess.run(
        [sys.executable, "-S", "-m", "rayhost.deploy", "--out", bare, *asked],
        check=True,
        capture_output=True,
        cwd=Path(__file__).parents[2],
    )
    assert sorted(map(Path, told)) == sorted(one for one in by_verb.rglob("*") if one.is_file())
    for path in map(Path, told):
        assert path.read_bytes() == (bare / path.relative_to(by_verb)).read_bytes()
    assert "MemoryMax=1984M" in (by_verb / "systemd/rayhost.slice").read_text()


def test_a_profile_that_is_not_valid_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text('{"models": []}')
    result = subprocess.run(
        command("deploy", "render", "--out", tmp_path / "out", "--profile", profile),
        check=False,
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert "models" in result.stderr
    assert not (tmp_path / "out").exists()
