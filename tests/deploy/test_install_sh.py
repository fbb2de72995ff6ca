"""install.sh where it does nothing: what it says of itself. The rest is tested in `tests/vps`."""

import json
import os
import subprocess
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest

from rayhost.deploy.built_for import Cpu, this_cpu

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


def test_a_wheelhouse_for_another_cpu_is_refused(wheelhouse: Path) -> None:
    here = this_cpu()
    other = Cpu("a Newer CPU", here.architecture, (*here.instructions, "avx9000"))
    (wheelhouse / "built-for.json").write_text(json.dumps(asdict(other)))
    result = run("--dry-run", "--offline", str(wheelhouse))
    assert (result.returncode, result.stdout) == (1, "")
    assert "it was compiled for a Newer CPU, and this " in result.stderr
    assert "lacks avx9000; make one on such a machine" in result.stderr
    (wheelhouse / "built-for.json").write_text(json.dumps(asdict(here)))
    assert run("--dry-run", "--offline", str(wheelhouse)).returncode == 0


@pytest.mark.skipif(os.path.isdir("/run/systemd/system"), reason="systemd runs here")
def test_without_systemd_it_points_to_the_other_ways() -> None:
    result = run("--uninstall")
    assert result.returncode == 1
    assert "it has to be root" in result.stderr or "docs/deploy.md" in result.stderr
