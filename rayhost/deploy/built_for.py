"""Which CPU, Python and C library a wheelhouse was compiled for, and what of that a machine lacks.

    python3 -m rayhost.deploy.built_for write|write-any-cpu|check FILE

llama.cpp is compiled with every instruction of the CPU that compiles it; on one that lacks some it
dies in the middle of a step, or while it is loaded. Wheels of another Python are not even found,
and a C library older than the compiler's lacks symbols. Standard library only, as `install.sh` runs
it with the Python that is to serve.
"""

import json
import platform
import re
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rayhost.errors import RayhostError

# What compilers emit on x86; the kernel's other flags are about the machine. AMX is left out of
# our builds. Of arm64 all features count.
_X86 = re.compile(
    r"s?sse\d?(_\d)?|avx\w*|fma|f16c|bmi\d|popcnt|abm|movbe|adx|gfni|vaes|vpclmulqdq|sha_ni"
)


@dataclass(frozen=True, slots=True)
class Target:
    """What programs are compiled for: a CPU, with its name for people, a Python and a C library."""

    name: str
    architecture: str
    instructions: tuple[str, ...]  # empty: those that every CPU of that architecture has
    python: str = ""  # as in 3.11
    glibc: str = ""  # as in 2.36; empty: another C library


def read(cpuinfo: str, architecture: str) -> Target:
    """Return the CPU of a /proc/cpuinfo, without Python and C library."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    x86 = [one for one in fields.get("flags", "").split() if _X86.fullmatch(one)]
    found = {*x86, *fields.get("Features", "").split()}
    name = " ".join(fields.get("model name", f"{architecture} CPU").split())
    return Target(name, architecture, tuple(sorted(found)))


def here() -> Target:
    """Read this machine's, and take the Python that runs this."""
    cpu = read(Path("/proc/cpuinfo").read_text(errors="replace"), platform.machine())
    library, version = platform.libc_ver()
    return replace(
        cpu,
        python="{}.{}".format(*sys.version_info),
        glibc=version if library == "glibc" else "",
    )


def obstacle(built: Target, here: Target) -> str:
    """Return why what was compiled for one target cannot run on another, or nothing."""
    if built.architecture != here.architecture:
        return f"it was compiled for {built.architecture}, and this is {here.architecture}"
    if built.python != here.python:
        return f"its wheels are for Python {built.python}, and this is Python {here.python}"
    if _numbers(built.glibc) > _numbers(here.glibc):
        lacking = f"this has {here.glibc}" if here.glibc else "this has none"
        return f"it was compiled with glibc {built.glibc}, and {lacking}"
    missing = sorted(set(built.instructions) - set(here.instructions))
    if not missing:
        return ""
    return f"it was compiled for {built.name}, and this {here.name} lacks {', '.join(missing)}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def load(path: Path) -> Target:
    """Read what `write` wrote. Raises RayhostError."""
    try:
        given: dict[str, Any] = json.loads(path.read_text())
        return Target(**{**given, "instructions": tuple(given["instructions"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RayhostError(f"{path}: cannot be read: {error}") from None


def main(verb: str, file: str) -> int:
    """Write it, or print what is in the way; return the exit status."""
    this = here()
    if verb != "check":
        built = replace(this, instructions=()) if verb == "write-any-cpu" else this
        Path(file).write_text(json.dumps(asdict(built), indent=1) + "\n")
        return 0
    try:
        why = obstacle(load(Path(file)), this)
    except RayhostError as error:
        why = str(error)
    sys.stdout.write(f"{why}\n" if why else "")
    return 1 if why else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
