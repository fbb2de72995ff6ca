"""Whether llama.cpp was compiled for this CPU.

The factors were measured with SmolLM2-135M in Q4_1 on an AVX-512 CPU, one thread, in CPU time:
prompt and generated tokens a second were 189 and 52 with all that the CPU has, 169 and 51 with
AVX2, 30 and 16 with neither.
"""

import signal
import subprocess
import sys
from collections.abc import Collection, Iterator
from typing import NamedTuple

from rayhost.doctor.finding import Finding

# By the names of `baseline.cpu.FLAGS`, those of `llama_print_system_info`.
_NAMES = {
    "AVX2": "AVX2",
    "FMA": "FMA",
    "F16C": "F16C",
    "AVX-512": "AVX512",
    "AVX-512 VNNI": "AVX512_VNNI",
    "AVX-VNNI": "AVX_VNNI",
    "AVX-512 BF16": "AVX512_BF16",
    "NEON dot product": "DOTPROD",
    "NEON i8mm": "MATMUL_INT8",
}
_GENERIC = {"AVX2", "FMA", "F16C"}
_AVX512 = {"AVX-512", "AVX-512 VNNI", "AVX-VNNI", "AVX-512 BF16"}
_FORGET = "python3 -m pip cache remove llama_cpp_python"
_FIX = (f"{_FORGET}; rm -rf .venv && make setup", "in the checkout, on this machine")
_FIX_SERVICE = (f"{_FORGET}; sh deploy/install.sh", "in a checkout of the release, on this machine")
_ASK = "import llama_cpp; print(llama_cpp.llama_print_system_info().decode())"


class Build(NamedTuple):
    """What the installed llama.cpp says of itself, or how the asking ended."""

    info: str
    status: int = 0
    said: str = ""


def read(python: str = sys.executable) -> Build:
    """Ask it in a process of its own, where one for another CPU may die."""
    try:
        asked = subprocess.run(
            [python, "-c", _ASK], check=False, capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Build("", 1, str(error))
    return Build(asked.stdout, asked.returncode, asked.stderr.strip().rpartition("\n")[2])


def check(build: Build, flags: Collection[str], *, service: bool = False) -> Iterator[Finding]:
    """Yield what is wrong with a build on a CPU with the instruction sets `flags`."""
    fix = _FIX_SERVICE if service else _FIX
    if build.status:
        died = build.status == -signal.SIGILL
        yield Finding(
            "build",
            "error",
            "llama.cpp was compiled for another CPU: it dies of an illegal instruction"
            if died
            else f"llama.cpp does not run: {build.said or f'status {build.status}'}",
            "no model can be loaded",
            *fix,
        )
        return
    built = {part.split("=")[0].split(":")[-1].strip() for part in build.info.split("|")}
    missing = [name for name in flags if name in _NAMES and _NAMES[name] not in built]
    if _GENERIC & set(missing):
        yield Finding(
            "build",
            "error",
            f"llama.cpp was compiled without {', '.join(missing)}, which this CPU has",
            "a generic build reads prompts 6 times and generates 3 times slower",
            *fix,
        )
    elif missing:
        worth = "prompts are read about 1.1 times slower, more so with repacked weights (Q4_0)"
        yield Finding(
            "build",
            "warning",
            f"llama.cpp was compiled without {', '.join(missing)}, which this CPU has",
            worth if _AVX512 & set(missing) else "it is slower than it could be",
            *fix,
        )
    if "AMX_INT8" in built:
        yield Finding(
            "build",
            "warning",
            "llama.cpp was compiled with its AMX kernels",
            "they crash on Q4_1 weights, so models are loaded without repacked kernels, and slower",
            *fix,
        )
