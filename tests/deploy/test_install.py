"""install.py: what a person sees while pip works, and what is left when it fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

INSTALL = Path(__file__).parents[2] / "deploy" / "install.py"

BUILD = """
import os, sys
print("Collecting numpy==2.0")
print("  Installing collected packages: setuptools")
print("  Building wheel for llama-cpp-python (pyproject.toml): started")
for step in range(1, 194):
    print(f"  [{step}/193] /usr/bin/g++ -O3 -c x.cpp")
print("  [0/1] Install the project...")
print("Installing collected packages: numpy, llama-cpp-python, rayhost")
print("arguments", *sys.argv[1:])
print("jobs", os.environ["CMAKE_BUILD_PARALLEL_LEVEL"])
"""
MAKE_BUILD = """
print("  Building wheel for llama-cpp-python (pyproject.toml): started")
for percent in range(101):
    print(f"  [{percent:3d}%] Building CXX object")
"""
FAILURE = """
import sys
for line in range(100):
    print("line", line)
    print(f"  [{line}/100] /usr/bin/g++ -c {line}.cpp")
print("error: the compiler says no", file=sys.stderr)
sys.exit(3)
"""


@pytest.fixture
def install(tmp_path: Path) -> "Install":
    return Install(tmp_path)


class Install:
    """Runs install.py with a program in pip's place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "setup.log"

    def __call__(self, pip: str, **environment: str) -> subprocess.CompletedProcess[str]:
        package = self.folder / "pip"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(pip)
        # -P keeps the script's folder off the path; the stand-in comes before the real pip.
        return subprocess.run(
            [sys.executable, str(INSTALL), str(self.log), "-e", "."],
            env=os.environ | {"PYTHONPATH": str(self.folder)} | environment,
            capture_output=True,
            text=True,
            check=False,
        )


def test_a_build_says_what_it_costs_and_each_tenth(install: Install) -> None:
    result = install(BUILD)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert "minutes on 2 cores" in lines[0]
    tenths = [line.split(":")[2].split(" %")[0] for line in lines[1:-2]]
    assert tenths == [" 10", " 20", " 30", " 40", " 50", " 60", " 70", " 80", " 90", " 100"]
    assert lines[-2:] == ["setup: installing 3 packages", "setup: done"]


def test_a_build_with_make_has_progress_too(install: Install) -> None:
    assert install(MAKE_BUILD).stdout.count("compiling llama-cpp-python: ") == 10


def test_the_log_has_everything_and_pip_its_arguments(install: Install) -> None:
    install(BUILD, CMAKE_BUILD_PARALLEL_LEVEL="7")
    log = install.log.read_text()
    assert "[77/193]" in log
    assert "arguments install --verbose --no-input --progress-bar=off -e .\n" in log
    assert "jobs 7\n" in log


def test_a_failure_shows_the_end_of_the_log_and_where_it_lies(install: Install) -> None:
    result = install(FAILURE)
    assert result.returncode == 3
    assert "error: the compiler says no" in result.stdout
    assert "line 99\n" in result.stdout
    assert "line 1\n" not in result.stdout
    assert "99.cpp" not in result.stdout
    assert result.stdout.endswith(f"all of it is in {install.log}\n")


@pytest.mark.parametrize(
    ("cpus", "free_gib", "jobs"), [(2, 8.0, 2), (2, 1.0, 1), (2, 0.3, 1), (8, 3.0, 4), (1, 64.0, 1)]
)
def test_compilers_are_bounded_by_cpus_and_by_free_memory(
    cpus: int, free_gib: float, jobs: int
) -> None:
    program = "import sys; from install import compile_jobs as j; print(j(*map(int, sys.argv[1:])))"
    result = subprocess.run(
        [sys.executable, "-c", program, str(cpus), str(int(free_gib * (1 << 30)))],
        env=os.environ | {"PYTHONPATH": str(INSTALL.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(result.stdout) == jobs


PRINT_FLAGS = """
import os
print("flags", os.environ.get("CFLAGS"), "|", os.environ.get("CXXFLAGS"))
"""


def test_llama_is_compiled_without_amx_where_the_compiler_knows_it(install: Install) -> None:
    install(PRINT_FLAGS, CXX="true", CFLAGS="-O2", CXXFLAGS="")
    no_amx = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
    assert f"flags {no_amx} -O2 | {no_amx}\n" in install.log.read_text()


def test_another_compiler_gets_the_flags_it_was_given(install: Install) -> None:
    install(PRINT_FLAGS, CXX="false", CFLAGS="-O2", CXXFLAGS="-O3")
    assert "flags -O2 | -O3\n" in install.log.read_text()
