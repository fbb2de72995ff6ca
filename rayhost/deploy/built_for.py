"""Which CPU a wheelhouse was compiled for, and what of that a machine lacks.

    python3 -m rayhost.deploy.built_for write|check FILE

llama.cpp is compiled with every instruction of the CPU that compiles it; on one that lacks some it
dies in the middle of a step, or while it is loaded. Standard library only, as `install.sh` runs it.
"""

import json
import platform
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rayhost.errors import RayhostError

# What compilers emit on x86; the kernel's other flags are about the machine. AMX is left out of
# our builds. Of arm64 all features count.
_X86 = re.compile(
    r"s?sse\d?(_\d)?|avx\w*|fma|f16c|bmi\d|popcnt|abm|movbe|adx|gfni|vaes|vpclmulqdq|sha_ni"
)


@dataclass(frozen=True, slots=True)
class Cpu:
    """A CPU: its name for people, and what programs may contain."""

    name: str
    architecture: str
    instructions: tuple[str, ...]


def read(cpuinfo: str, architecture: str) -> Cpu:
    """Return the CPU of a /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    x86 = [one for one in fields.get("flags", "").split() if _X86.fullmatch(one)]
    found = {*x86, *fields.get("Features", "").split()}
    name = " ".join(fields.get("model name", f"{architecture} CPU").split())
    return Cpu(name, architecture, tuple(sorted(found)))


def this_cpu() -> Cpu:
    """Read it."""
    return read(Path("/proc/cpuinfo").read_text(errors="replace"), platform.machine())


def obstacle(built: Cpu, here: Cpu) -> str:
    """Return why what was compiled for one CPU cannot run on another, or nothing."""
    if built.architecture != here.architecture:
        return f"it was compiled for {built.architecture}, and this is {here.architecture}"
    missing = sorted(set(built.instructions) - set(here.instructions))
    if not missing:
        return ""
    return f"it was compiled for {built.name}, and this {here.name} lacks {', '.join(missing)}"


def load(path: Path) -> Cpu:
    """Read what `write` wrote. Raises RayhostError."""
    try:
        given: dict[str, Any] = json.loads(path.read_text())
        return Cpu(given["name"], given["architecture"], tuple(given["instructions"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RayhostError(f"{path}: cannot be read: {error}") from None


def main(verb: str, file: str) -> int:
    """Write it, or print what is in the way; return the exit status."""
    here = this_cpu()
    if verb == "write":
        Path(file).write_text(json.dumps(asdict(here), indent=1) + "\n")
        return 0
    try:
        why = obstacle(load(Path(file)), here)
    except RayhostError as error:
        why = str(error)
    sys.stdout.write(f"{why}\n" if why else "")
    return 1 if why else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
