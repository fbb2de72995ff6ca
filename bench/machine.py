"""What a result was measured on: facts of the machine and of this checkout."""

import os
import platform
import re
import subprocess
from pathlib import Path

import msgspec

from rayhost.supervisor import topology

CHECKOUT = Path(__file__).parent.parent
_AFFECTS_THREADS = re.compile(r"^(OMP|GOMP|KMP|LLAMA|GGML)_")


class Machine(msgspec.Struct, frozen=True):
    """The machine, as far as it decides figures."""

    cpu: str
    cpus: int  # that this process may use
    memory_gib: float
    kernel: str
    load_average: float  # of the minute before the first run: near zero on a quiet machine
    environment: dict[str, str]  # variables that llama.cpp or OpenMP read


def read() -> Machine:
    """Return the facts of this machine, now."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        cpu=cpu_model(Path("/proc/cpuinfo").read_text()) or platform.machine(),
        cpus=len(os.sched_getaffinity(0)),
        memory_gib=round(memory / 2**30, 1),
        kernel=platform.release(),
        load_average=os.getloadavg()[0],
        environment={k: v for k, v in os.environ.items() if _AFFECTS_THREADS.match(k)},
    )


def physical_cores() -> int:
    """Return the threads that rayhost would choose: one for each physical core it may use."""
    here = topology.read()
    return here.cores(here.allowed)


def cpu_model(cpuinfo: str) -> str:
    """Return the model name in the text of /proc/cpuinfo; empty where there is none (ARM)."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else ""


def slug(cpu: str) -> str:
    """Return a CPU's name as part of a file name."""
    plain = re.sub(r"\((R|TM)\)|\bCPU\b|@.*", " ", cpu, flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-") or "unknown"


def commit() -> str:
    """Return the commit of this checkout, marked if files have changed since."""
    describe = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(describe, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
