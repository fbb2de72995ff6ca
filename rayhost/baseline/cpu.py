"""The CPU as inference sees it: model, cores, caches and the instruction sets that matter.

`host` reads the kernel; the rest is pure. `Cpu.key` names a host in the store: a box that was
resized, or moved to another CPU, is another host whose measurements do not carry over.
"""

import hashlib
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from rayhost.supervisor import topology

# The kernel's name of a flag: what it does for quantized weights.
FLAGS: Mapping[str, str] = {
    "avx2": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "amx_int8": "AMX INT8",
    "asimd": "NEON",
    "asimddp": "NEON dot product",
    "i8mm": "NEON i8mm",
    "sve": "SVE",
    "bf16": "BF16",
}
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Cpu(msgspec.Struct, frozen=True):
    """The CPU of this host. `ids` are the CPUs this process may use, on `cores` physical cores."""

    model: str
    architecture: str
    ids: tuple[int, ...]
    cores: int
    cache_bytes: int  # the largest level, as the kernel tells: a VM may see all of the host's
    flags: tuple[str, ...]

    @property
    def cpus(self) -> int:
        """How many CPUs this process may use."""
        return len(self.ids)

    @property
    def key(self) -> str:
        """A file name for this host, the same as long as its hardware is."""
        parts = (self.model, self.architecture, str(self.cpus), str(self.cores), *self.flags)
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
        slug = re.sub(r"[^a-z0-9]+", "-", self.model.lower()).strip("-")[:48]
        return f"{slug or 'cpu'}-{self.cpus}-{digest}"


def host() -> Cpu:
    """Read this host's CPU."""
    here = topology.read()
    info = Path("/proc/cpuinfo").read_text(errors="replace")
    return Cpu(
        model=model_name(info, platform.machine()),
        architecture=platform.machine(),
        ids=tuple(sorted(here.allowed)),
        cores=here.cores(here.allowed),
        cache_bytes=_largest_cache(),
        flags=flags_that_matter(info),
    )


def model_name(cpuinfo: str, machine: str) -> str:
    """Return the CPU's name from /proc/cpuinfo; arm64 kernels give only numbers."""
    fields = _fields(cpuinfo)
    if name := fields.get("model name"):
        return " ".join(name.split())
    part = fields.get("CPU part")
    maker = fields.get("CPU implementer", "unknown")
    return f"{machine} implementer {maker} part {part}" if part else f"{machine} CPU"


def flags_that_matter(cpuinfo: str) -> tuple[str, ...]:
    """Return the names, in the order of `FLAGS`, of the instruction sets the CPU has."""
    fields = _fields(cpuinfo)
    has = set(f"{fields.get('flags', '')} {fields.get('Features', '')}".split())
    return tuple(name for flag, name in FLAGS.items() if flag in has)


def cache_size(text: str) -> int:
    """Return the bytes of a kernel cache size such as `512K`; 0 for what is none."""
    found = re.fullmatch(r"(\d+)([KMG]?)", text.strip())
    return int(found[1]) * _UNITS[found[2]] if found else 0


def _fields(cpuinfo: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in cpuinfo.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _largest_cache() -> int:
    # Virtual machines may hide it; `size` is all that is read, so 0 then means "not known".
    sizes = [cache_size(path.read_text()) for path in _CACHES.glob("index*/size")]
    return max(sizes, default=0) if os.access(_CACHES, os.R_OK) else 0
