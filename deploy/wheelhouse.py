"""Makes a wheelhouse: a folder from which install.sh installs rayhost without network or compiler.

Usage: wheelhouse.py FOLDER, with a Python that has pip. It holds rayhost, all that it needs in the
versions of constraints.txt, and install.sh with its parts. llama.cpp in it is compiled for the CPU
of this machine, which built-for.json names with the Python; pip's cache spares that the next time.
FOLDER is replaced as a whole, or not at all.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from install import build_environment

ROOT = Path(__file__).resolve().parent.parent
EPOCH = "315532800"  # 1980, where zip's time begins: the same sources make the same bytes
SOURCES = ("pyproject.toml", "README.md", "constraints.txt")
# With a fixed date ggml takes the build for one that many machines are to share, and leaves out
# every instruction set (see `rayhost doctor` for what that costs). Said outright, it is not.
NATIVE = "-DGGML_NATIVE=ON"
ANY_CPU = "GGML_NATIVE=OFF"


def environment(own: dict[str, str]) -> dict[str, str]:
    """Return the environment that the wheels are built in; the operator's own flags come last."""
    cmake = f"{NATIVE} {own.get('CMAKE_ARGS', '')}".strip()
    return {**build_environment(own), "SOURCE_DATE_EPOCH": EPOCH, "CMAKE_ARGS": cmake}


def main(folder: str) -> int:
    """Make it; return the exit status."""
    out = Path(folder).absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as work:
        # A copy: setuptools builds in the tree, and would pack what an earlier build left there.
        source, wheels = Path(work, "source"), Path(work, "wheels")
        source.mkdir()
        for name in SOURCES:
            shutil.copy(ROOT / name, source)
        shutil.copytree(
            ROOT / "rayhost", source / "rayhost", ignore=shutil.ignore_patterns("__pycache__")
        )
        pip = [sys.executable, "-m", "pip", "wheel", "--no-input", "--progress-bar=off", "--quiet"]
        constraints = source / "constraints.txt"
        made = subprocess.run(
            [*pip, "--wheel-dir", wheels, "--constraint", constraints, source],
            env=environment(dict(os.environ)),
            check=False,
        )
        if made.returncode:
            return made.returncode
        shutil.copy(ROOT / "deploy" / "install.sh", wheels)
        shutil.copytree(ROOT / "deploy" / "service", wheels / "service")
        # install.sh refuses it with another Python, and on a CPU that lacks an instruction.
        verb = "write-any-cpu" if ANY_CPU in os.environ.get("CMAKE_ARGS", "") else "write"
        record = ["-m", "rayhost.deploy.built_for", verb, str(wheels / "built-for.json")]
        subprocess.run([sys.executable, *record], cwd=ROOT, check=True)
        wheels.chmod(0o755)
        if out.exists():
            out.rename(Path(work, "old"))
        wheels.rename(out)
    size = sum(one.stat().st_size for one in out.iterdir()) / 1e6
    sys.stdout.write(f"wheelhouse: {out} ({len(list(out.glob('*.whl')))} wheels, {size:.0f} MB)\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
