"""Runs `pip install` and shows how far it is; setup.sh calls it with the venv's own Python.

Usage: install.py LOG PIP-ARGUMENTS... Everything that pip and the compiler say goes to LOG; the
terminal gets one line that changes, anything else a line for each tenth. Standard library only.
"""

import os
import re
import shlex
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

# Ninja counts its steps, make its percentage. Ninja's install step counts too, to one.
NINJA = re.compile(r"\[(\d+)/(\d+)\] ")
MAKE = re.compile(r"\[ *(\d+)%\] ")
COMPILING = "Building wheel for llama"
ENGINE = "llama-cpp-python"

# The largest translation unit of llama.cpp was measured at 0.68 GB of compiler.
COMPILER_BYTES = 700 << 20

# llama.cpp's AMX kernels crash in prefill on Q4_1 weights and have given garbage (issue 20824 and
# pull 16315 of ggml-org/llama.cpp). A build for this CPU would contain them where it has AMX.
NO_AMX = ("-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16")


class Progress:
    """Turns the lines of `pip install -v` into what a person wants to see."""

    def __init__(self, live: bool) -> None:
        self._live = live
        self._compiling_since: float | None = None
        self._tenth = 0

    def line(self, text: str) -> None:
        """Take one line of pip's output."""
        words = text.split()
        if COMPILING in text and self._compiling_since is None:
            self._compiling_since = time.monotonic()
            self.say(f"compiling {ENGINE} for this CPU: 5 to 10 minutes on 2 cores, only once")
        elif (percent := _percent(text)) is not None and self._compiling_since is not None:
            self._compiled(percent, time.monotonic() - self._compiling_since)
        elif text.startswith("Collecting ") and len(words) > 1:
            self._show(f"finding {words[1]}")
        elif text.startswith("Installing collected packages"):
            self.say(f"installing {text.count(',') + 1} packages")

    def say(self, text: str) -> None:
        """Show a line that stays."""
        self._show("")
        sys.stdout.write(f"setup: {text}\n")
        sys.stdout.flush()

    def _compiled(self, percent: int, seconds: float) -> None:
        text = f"compiling {ENGINE}: {percent} % after {seconds // 60:.0f}:{seconds % 60:02.0f}"
        self._show(text)
        if not self._live and percent // 10 > self._tenth:
            self._tenth = percent // 10
            self.say(text)

    def _show(self, text: str) -> None:
        """On a terminal, put text in place of the line that changes."""
        if self._live:
            line = f"setup: {text}"[:79] if text else ""
            sys.stdout.write(f"\r\033[K{line}")
            sys.stdout.flush()


def _percent(text: str) -> int | None:
    if step := NINJA.search(text):
        done, total = int(step[1]), int(step[2])
        return 100 * done // total if total > 1 else None
    if step := MAKE.search(text):
        return int(step[1])
    return None


def compile_jobs(cpus: int, available: int) -> int:
    """Compilers to run at once: as many as CPUs, if that many bytes are free for them."""
    return max(1, min(cpus, available // COMPILER_BYTES))


def _available_bytes() -> int:
    memory = Path("/proc/meminfo").read_text()
    found = re.search(r"^MemAvailable: +(\d+) kB", memory, re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def _compiler_knows(compiler: str, flags: tuple[str, ...]) -> bool:
    """Tell whether a compiler takes flags; one for another architecture or an old one does not."""
    command = [*shlex.split(compiler), *flags, "-fsyntax-only", "-x", "c++", "-"]
    try:
        trial = subprocess.run(command, check=False, input=b"", capture_output=True)
    except OSError:
        return False
    return trial.returncode == 0


def build_environment(environment: dict[str, str]) -> dict[str, str]:
    """Return the environment llama.cpp is compiled in; what the operator set stays in it."""
    built = dict(environment)
    if _compiler_knows(built.get("CXX", "c++"), NO_AMX):
        for name in ("CFLAGS", "CXXFLAGS"):
            built[name] = " ".join([*NO_AMX, built.get(name, "")]).strip()
    if "CMAKE_BUILD_PARALLEL_LEVEL" not in built:
        # Ninja by itself runs two more than there are CPUs, and make only one.
        jobs = compile_jobs(len(os.sched_getaffinity(0)), _available_bytes())
        built["CMAKE_BUILD_PARALLEL_LEVEL"] = str(jobs)
    return built


def main(log_path: str, *arguments: str) -> int:
    """Run pip; return the exit status."""
    progress = Progress(sys.stdout.isatty())
    pip = [sys.executable, "-m", "pip", "install", "--verbose", "--no-input", "--progress-bar=off"]
    tail: deque[str] = deque(maxlen=30)
    with (
        Path(log_path).open("w", errors="replace") as log,
        subprocess.Popen(
            [*pip, *arguments],
            env=build_environment(dict(os.environ)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        try:
            for text in process.stdout or ():
                log.write(text)
                if _percent(text) is None:  # steps that went well, each a screen of compiler flags
                    tail.append(text.rstrip()[:200])
                progress.line(text.rstrip())
        except KeyboardInterrupt:  # the terminal told pip, too: let it clean up
            process.wait()
            progress.say("interrupted; the next setup goes on with what is finished")
            return 130
    if process.returncode:
        progress.say(f"pip failed, the end of {log_path}:")
        sys.stdout.writelines(f"    {text}\n" for text in tail)
        progress.say(f"pip failed with status {process.returncode}; all of it is in {log_path}")
    else:
        progress.say("done")
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
