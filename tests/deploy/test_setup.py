"""preflight.sh and setup.sh: what a machine lacks is said first, and nothing is done twice."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
TOOLS = ["cat", "cp", "dirname", "flock", "id", "mkdir", "rm", "sed", "sh", "sha256sum", "sort"]

# A real venv with pip takes seconds; setup.sh needs of it a Python that says it has pip.
VENV_PYTHON = f'#!/bin/sh\n[ "$1 $2" = "-m pip" ] || exec {sys.executable} "$@"\n'
PYTHON = f"""
[ "$1 $2" = "-m venv" ] || exec {sys.executable} "$@"
rm -rf .venv && mkdir -p .venv/bin && cp "$0-venv" .venv/bin/python
"""


class Machine:
    """A PATH with the common tools and only those others that a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, tool
            (folder / tool).symlink_to(found)

    def has(self, name: str, script: str) -> None:
        program = self.folder / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    def has_everything(self) -> None:
        self.has("python3", PYTHON)
        self.has("python3-venv", VENV_PYTHON)
        self.has("c++", "exit 0")
        self.has("cmake", "echo 'cmake version 3.25.1'")

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", *command],
            env={"PATH": str(self.folder), **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def preflight(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run(str(DEPLOY / "preflight.sh"), *arguments, **environment)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "bin").mkdir()
    return Machine(tmp_path / "bin")


def test_a_machine_with_everything_gives_its_python(machine: Machine) -> None:
    machine.has_everything()
    result = machine.preflight()
    assert (result.returncode, result.stdout, result.stderr) == (0, "python3\n", "")
    assert machine.preflight("--packages").stdout == "\n"


def test_everything_missing_is_listed_at_once_with_what_mends_it(machine: Machine) -> None:
    result = machine.preflight()
    assert (result.returncode, result.stdout) == (1, "")
    python, compiler, cmake = result.stderr.splitlines()
    assert python.startswith("setup: no Python 3.11 or newer")
    assert python.endswith("apt-get install -y python3 python3-venv")
    assert compiler.startswith("setup: no working C++ compiler")
    assert compiler.endswith("apt-get install -y g++")
    assert cmake.startswith("setup: no cmake")
    assert cmake.endswith("apt-get install -y cmake")


def test_missing_packages_can_be_asked_for(machine: Machine) -> None:
    result = machine.preflight("--packages")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split() == ["python3", "python3-venv", "g++", "cmake"]


def test_a_python_without_venv_is_named_with_its_package(machine: Machine) -> None:
    machine.has_everything()
    machine.has(
        "python3", 'case "$2" in *ensurepip*) exit 1 ;; *version_info*) echo python3.12 ;; esac'
    )
    (line,) = machine.preflight().stderr.splitlines()
    assert line.startswith("setup: python3.12 cannot make virtual environments")
    assert line.endswith("apt-get install -y python3.12-venv")


def test_a_python_that_can_make_venvs_is_preferred_to_a_newer_one(machine: Machine) -> None:
    machine.has_everything()
    machine.has("python3.13", 'case "$2" in *ensurepip*) exit 1 ;; *) echo python3.13 ;; esac')
    assert machine.preflight().stdout == "python3\n"


def test_a_name_on_the_path_that_does_not_run_is_passed_over(machine: Machine) -> None:
    machine.has_everything()
    machine.has("python3.13", "echo 'pyenv: command not found' >&2; exit 127")
    assert machine.preflight().stdout == "python3\n"


def test_a_python_asked_for_is_the_only_one_considered(machine: Machine) -> None:
    machine.has_everything()
    machine.has("old-python", "exit 0")
    assert machine.preflight(PYTHON=sys.executable).stdout == f"{sys.executable}\n"
    (line,) = machine.preflight(PYTHON="old-python").stderr.splitlines()
    assert line.startswith("setup: PYTHON=old-python is not a Python 3.11 or newer")


@pytest.mark.parametrize(("version", "usable"), [("3.20.9", False), ("3.21", True), ("4.0", True)])
def test_cmake_is_new_enough(machine: Machine, version: str, usable: bool) -> None:
    machine.has_everything()
    machine.has("cmake", f"echo 'cmake version {version}'")
    result = machine.preflight()
    assert (result.returncode == 0) is usable
    assert usable or f"cmake {version} is too old" in result.stderr


def test_a_compiler_without_its_library_is_not_one(machine: Machine) -> None:
    machine.has_everything()
    machine.has("c++", "exit 1")
    assert "no working C++ compiler" in machine.preflight().stderr


class Checkout:
    """A copy of what setup.sh reads, so that it can be run without touching this checkout."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        self.folder = folder
        self.machine = machine
        shutil.copytree(DEPLOY, folder / "deploy")
        (folder / "pyproject.toml").touch()
        (folder / "constraints.txt").touch()
        (folder / "deploy" / "install.py").write_text(
            "import sys; print('installing', sys.argv[-1])"
        )

    def setup(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.machine.run(str(self.folder / "deploy" / "setup.sh"), *arguments)


@pytest.fixture
def checkout(tmp_path: Path, machine: Machine) -> Checkout:
    (tmp_path / "checkout").mkdir()
    return Checkout(tmp_path / "checkout", machine)


def test_setup_stops_before_it_makes_anything_when_something_is_missing(checkout: Checkout) -> None:
    result = checkout.setup()
    assert result.returncode == 1
    assert "no cmake" in result.stderr
    assert not (checkout.folder / ".venv").exists()


def test_setup_installs_once_and_again_when_requirements_change(checkout: Checkout) -> None:
    checkout.machine.has_everything()
    first = checkout.setup()
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1] == "installing ."
    assert checkout.setup().stdout == ""
    (checkout.folder / "constraints.txt").write_text("a==1\n")
    assert checkout.setup().stdout == "installing .\n"
    assert checkout.setup("dev").stdout == "installing .[dev]\n"
    assert checkout.setup().stdout == ""
    assert checkout.setup("dev").stdout == ""


def test_a_failed_installation_is_tried_again(checkout: Checkout) -> None:
    checkout.machine.has_everything()
    install = checkout.folder / "deploy" / "install.py"
    works = install.read_text()
    install.write_text("raise SystemExit(3)")
    assert checkout.setup().returncode == 3
    install.write_text(works)
    assert checkout.setup().stdout == "installing .\n"


def test_a_moved_checkout_gets_a_venv_of_its_own(checkout: Checkout) -> None:
    checkout.machine.has_everything()
    checkout.setup()
    moved = checkout.folder.rename(checkout.folder.with_name("moved"))
    checkout.folder = moved
    assert "making .venv" in checkout.setup().stdout


def test_a_venv_that_was_cut_short_is_made_anew(checkout: Checkout) -> None:
    checkout.machine.has_everything()
    checkout.setup()
    for stamp in (".made", ".installed-runtime"):
        os.unlink(checkout.folder / ".venv" / stamp)
    assert "making .venv" in checkout.setup().stdout
