"""install.sh where it does nothing: what it says of itself. The rest is tested in `tests/vps`."""

import os
import subprocess
from pathlib import Path

import pytest

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


@pytest.mark.skipif(os.path.isdir("/run/systemd/system"), reason="systemd runs here")
def test_without_systemd_it_points_to_the_other_ways() -> None:
    result = run("--uninstall")
    assert result.returncode == 1
    assert "it has to be root" in result.stderr or "docs/deploy.md" in result.stderr
