"""wheelhouse.py: what it builds in, and that a build that fails changes nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rayhost.deploy.built_for import here, load, obstacle

WHEELHOUSE = Path(__file__).parents[2] / "deploy" / "wheelhouse.py"
PIP = """
import json, os, sys
folder = sys.argv[sys.argv.index("--wheel-dir") + 1]
os.mkdir(folder)
with open(os.path.join(folder, "rayhost-0-py3-none-any.whl"), "w") as wheel:
    json.dump(dict(os.environ), wheel)
sys.exit(int(os.environ.get("PIP_STATUS", "0")))
"""


def make(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "pip.py").write_text(PIP)
    return subprocess.run(
        [sys.executable, WHEELHOUSE, tmp_path / "out"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path), **environment},
    )


@pytest.mark.parametrize("own", ["", "-DGGML_NATIVE=OFF -DGGML_AVX2=ON"])
def test_llama_cpp_is_built_for_this_cpu_unless_the_operator_says_otherwise(
    tmp_path: Path, own: str
) -> None:
    done = make(tmp_path, CMAKE_ARGS=own)
    assert done.returncode == 0, done.stderr
    environment = json.loads((tmp_path / "out" / "rayhost-0-py3-none-any.whl").read_text())
    # ggml reads this variable as "for any machine".
    assert environment["SOURCE_DATE_EPOCH"]
    assert environment["CMAKE_ARGS"] == f"-DGGML_NATIVE=ON {own}".strip()
    assert (tmp_path / "out" / "install.sh").exists()
    parts = {path.name for path in (WHEELHOUSE.parent / "service").iterdir()}
    assert {path.name for path in (tmp_path / "out" / "service").iterdir()} == parts
    named = load(tmp_path / "out" / "built-for.json")
    assert bool(named.instructions) == ("OFF" not in own)
    assert obstacle(named, here()) == ""


def test_a_failed_build_leaves_the_wheelhouse_of_before(tmp_path: Path) -> None:
    make(tmp_path)
    before = sorted((tmp_path / "out").iterdir())
    assert make(tmp_path, PIP_STATUS="3").returncode == 3
    assert sorted((tmp_path / "out").iterdir()) == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out", "pip.py"]
