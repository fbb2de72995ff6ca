"""What a CPU is called and which of its instruction sets matter."""

import msgspec
import pytest

from rayhost.baseline import cpu

XEON = """processor\t: 0
model name\t: Intel(R) Xeon(R)  Processor @ 2.60GHz
flags\t\t: fpu sse avx2 fma f16c avx512f avx512_vnni amx_int8
processor\t: 1
flags\t\t: fpu sse avx2 fma f16c avx512f avx512_vnni amx_int8
"""
ARM = """processor\t: 0
Features\t: fp asimd asimddp i8mm bf16
CPU implementer\t: 0x41
CPU part\t: 0xd0c
"""


def test_flags_are_those_of_x86_or_of_arm() -> None:
    assert cpu.flags_that_matter(XEON) == (
        *("AVX2", "FMA", "F16C", "AVX-512", "AVX-512 VNNI", "AMX INT8"),
    )
    assert cpu.flags_that_matter(ARM) == ("NEON", "NEON dot product", "NEON i8mm", "BF16")
    assert cpu.flags_that_matter("") == ()


def test_a_cpu_without_a_name_is_called_by_its_numbers() -> None:
    assert cpu.model_name(XEON, "x86_64") == "Intel(R) Xeon(R) Processor @ 2.60GHz"
    assert cpu.model_name(ARM, "aarch64") == "aarch64 implementer 0x41 part 0xd0c"
    assert cpu.model_name("", "riscv64") == "riscv64 CPU"


@pytest.mark.parametrize(
    ("text", "size"), [("48K\n", 48 << 10), ("32M", 32 << 20), ("7", 7), ("", 0), ("-1K", 0)]
)
def test_cache_sizes_have_units(text: str, size: int) -> None:
    assert cpu.cache_size(text) == size


def test_the_key_changes_with_the_hardware_and_with_nothing_else() -> None:
    here = cpu.Cpu("Intel(R) Xeon(R)", "x86_64", (0, 1), 2, 1 << 20, ("AVX2",))
    assert msgspec.structs.replace(here, ids=(2, 3), cache_bytes=0).key == here.key
    others = [
        msgspec.structs.replace(here, **change)
        for change in (
            {"ids": (0,)},
            {"cores": 1},
            {"flags": ()},
            {"model": "AMD"},
            {"architecture": "i686"},
        )
    ]
    assert len({here.key, *(other.key for other in others)}) == 6
    assert here.key.startswith("intel-r-xeon-r-2-")


def test_this_machine_can_be_read() -> None:
    here = cpu.host()
    assert 1 <= here.cores <= here.cpus
    assert here.model
    assert "/" not in here.key
