"""install.sh where it does nothing: what it says of itself. The rest is tested in `tests/vps`."""

import json
import os
import subprocess
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from rayhost.deploy.built_for import here

INSTALL = Path(__file__).parents[2] / "deploy" / "install.sh"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", INSTALL, *arguments], check=False, capture_output=True, text=True, timeout=60
    )


def test_help_tells_every_option() -> None:
    result = run("--help")
    assert (result.returncode, result.stderr) == (0, "")
    for option in (
        "--offline", "--profile", "--cpus", "--rollback", "--uninstall", "--keep-data", "--dry-run",
        "--proxy", "--domain", "--certificate", "--certificate-key",
    ):  # fmt: skip
        assert option in result.stdout
    assert "set -eu" not in result.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--dry-run", "--offline", "/nowhere"], "install: /nowhere: no wheelhouse"),
        (["--dry-run", "--profil", "x"], "install: unknown option --profil"),
        (["--cpus"], "install: --cpus needs a value"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], why: str) -> None:
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(why)
    assert len(result.stderr.splitlines()) == 1


@pytest.fixture
def wheelhouse(tmp_path: Path) -> Path:
    """What install.sh takes for one: it runs our modules from the wheel."""
    package = INSTALL.parents[1] / "rayhost"
    with zipfile.ZipFile(tmp_path / "rayhost-0-py3-none-any.whl", "w") as wheel:
        for path in [*package.glob("*.py"), *(package / "deploy").rglob("*.*")]:
            wheel.write(path, path.relative_to(package.parent))
    return tmp_path


def dry(wheelhouse: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return run("--dry-run", "--offline", str(wheelhouse), *options)


def test_a_wheelhouse_for_another_cpu_is_refused(wheelhouse: Path) -> None:
    this = here()
    other = replace(this, name="a Newer CPU", instructions=(*this.instructions, "avx9000"))
    (wheelhouse / "built-for.json").write_text(json.dumps(asdict(other), indent=1))
    result = dry(wheelhouse)
    assert (result.returncode, result.stdout) == (1, "")
    assert "it was compiled for a Newer CPU, and this " in result.stderr
    assert "lacks avx9000; make one on such a machine" in result.stderr
    (wheelhouse / "built-for.json").write_text(json.dumps(asdict(this), indent=1))
    assert dry(wheelhouse).returncode == 0


def test_a_wheelhouse_for_another_python_is_refused(wheelhouse: Path) -> None:
    other = replace(here(), python="3.99")
    (wheelhouse / "built-for.json").write_text(json.dumps(asdict(other), indent=1))
    result = dry(wheelhouse)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "install: no Python 3.99, for which the wheels are; to mend it: "
        "apt-get install -y python3.99-venv\n"
    )


@pytest.mark.parametrize(
    ("profile", "why"),
    [
        ({"listen": []}, "listen: expected an object"),
        ({"limits": None}, "limits: expected an object"),
        ({"models": [{"preload": ["file:kind.txt"]}]}, "it names 'kind.txt', and there is no /etc"),
    ],
)
def test_a_profile_that_cannot_be_installed_is_one_line_before_any_change(
    wheelhouse: Path, profile: dict[str, object], why: str
) -> None:
    path = wheelhouse / "profile.json"
    path.write_text(json.dumps(profile))
    result = dry(wheelhouse, "--profile", str(path))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"rayhost: {path}: {why}")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--proxy", "apache"), "install: --proxy apache: expected nginx or caddy"),
        (("--proxy", "nginx"), "rayhost: '' is no domain"),
        (
            ("--proxy", "nginx", "--domain", "a.org", "--certificate", "/a"),
            "rayhost: a cert",
        ),
        (("--cpus", "3-1"), "rayhost: '3-1' are no CPUs"),
    ],
)
def test_what_a_proxy_and_units_cannot_be_made_of_is_one_line_before_any_change(
    wheelhouse: Path, options: tuple[str, ...], why: str
) -> None:
    result = dry(wheelhouse, *options)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(why)
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.skipif(os.path.isdir("/run/systemd/system"), reason="systemd runs here")
def test_without_systemd_it_points_to_the_other_ways() -> None:
    result = run("--uninstall")
    assert result.returncode == 1
    assert "it has to be root" in result.stderr or "docs/deploy.md" in result.stderr
