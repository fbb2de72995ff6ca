"""What the boxes of this folder have: a wheelhouse, a model, and an installation to break."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.vps.box import Box, box, root_filesystem, why_not
from tests.vps.clients import Service

MODELS = "/models"
WHEELHOUSE = "/wheelhouse"
UPGRADE = "/upgrade"
PROFILE = "/root/profile.json"
ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot be, and give the rest the time that booting and installing takes."""
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    reason = why_not() if here else ""
    for item in here:
        item.add_marker(pytest.mark.heavy)
        item.add_marker(pytest.mark.timeout(600))
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


_measured: list[str] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what was measured."""
    if _measured:
        terminalreporter.section("measured in the box")
        for line in _measured:
            terminalreporter.write_line(line)


@pytest.fixture
def measured() -> Callable[[str], None]:
    """Takes a line for the end of the run."""
    return _measured.append


@pytest.fixture(scope="package")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make wheelhouse` makes of this checkout."""
    out = tmp_path_factory.mktemp("wheels") / "wheelhouse"
    made = subprocess.run(
        [sys.executable, ROOT / "deploy/wheelhouse.py", out],
        check=False,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    return out


@pytest.fixture(scope="package")
def upgrade(wheelhouse: Path) -> Path:
    """Another release: one of the wheels is another build."""
    out = wheelhouse.with_name("upgrade")
    shutil.copytree(wheelhouse, out)
    shutil.copy(next(out.glob("typer-*.whl")), out / "zzz-1-py3-none-any.whl")
    return out


@pytest.fixture(scope="package")
def debian() -> None:
    """Skips the tests where no Debian can be had."""
    try:
        root_filesystem()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no Debian for the box could be fetched: {error.stderr}")


@pytest.fixture(scope="package")
def folders(debian: None, wheelhouse: Path, upgrade: Path, smollm2: Path) -> dict[Path, str]:
    """What every box sees of this machine."""
    return {wheelhouse: WHEELHOUSE, upgrade: UPGRADE, smollm2.parent: MODELS}


def put_profile(machine: Box, model: Path, extra: str = "") -> None:
    (machine.root / PROFILE.lstrip("/")).write_text(
        f'{{"models": [{{"name": "smollm2-135m", "source": "file:{MODELS}/{model.name}", '
        f'"context": 1024, "concurrency": 4{extra}}}], "keys": "keys.json"}}\n'
    )


@pytest.fixture
def bare(folders: dict[Path, str], smollm2: Path) -> Iterator[Box]:
    """A machine on which nothing of ours is, and a profile to bring."""
    with box(folders) as machine:
        put_profile(machine, smollm2)
        yield machine


@pytest.fixture(scope="module")
def service(folders: dict[Path, str], smollm2: Path) -> Iterator[Service]:
    """An installation that serves."""
    with box(folders) as machine:
        put_profile(machine, smollm2)
        said = machine.run("sh", f"{WHEELHOUSE}/install.sh", "--profile", PROFILE).stdout
        yield Service(machine, key_in(said))


def key_in(said: str) -> str:
    """Return the key that install.sh showed."""
    return next(line for line in said.splitlines() if "first API key, shown" in line).split()[-1]


@pytest.fixture(scope="module")
def shared(folders: dict[Path, str]) -> Iterator[Box]:
    """A bare machine for tests that change nothing."""
    with box(folders) as machine:
        yield machine
