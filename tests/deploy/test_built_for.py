"""The machine that a wheelhouse was compiled for, beside the one that it is brought to."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from rayhost.deploy.built_for import Target, here, load, main, obstacle, read
from rayhost.errors import RayhostError

XEON = """processor : 0
model name : Intel(R)  Xeon(R) Processor
flags : fpu vme sse sse2 ssse3 sse4_1 avx avx2 fma f16c hypervisor avx512f amx_tile bmi2 md_clear
processor : 1
flags : fpu
"""
ARM = "processor : 0\nFeatures : fp asimd asimddp i8mm\nCPU part : 0xd0c\n"
BUILT = replace(read(XEON, "x86_64"), python="3.11", glibc="2.36")


def test_what_compilers_emit_is_read_and_nothing_else() -> None:
    assert BUILT.name == "Intel(R) Xeon(R) Processor"
    assert BUILT.instructions == (
        "avx", "avx2", "avx512f", "bmi2", "f16c", "fma", "sse", "sse2", "sse4_1", "ssse3",
    )  # fmt: skip
    assert read(ARM, "aarch64") == Target(
        "aarch64 CPU", "aarch64", ("asimd", "asimddp", "fp", "i8mm")
    )


@pytest.mark.parametrize(
    ("this", "why"),
    [
        (BUILT, ""),
        (replace(BUILT, instructions=(*BUILT.instructions, "avx512_fp16")), ""),  # it can do more
        (
            replace(
                BUILT, name="Old", instructions=tuple(set(BUILT.instructions) - {"avx512f", "bmi2"})
            ),
            "it was compiled for Intel(R) Xeon(R) Processor, and this Old lacks avx512f, bmi2",
        ),
        (read(ARM, "aarch64"), "it was compiled for x86_64, and this is aarch64"),
        (
            replace(BUILT, python="3.13"),
            "its wheels are for Python 3.11, and this is Python 3.13",
        ),
        (replace(BUILT, glibc="2.41"), ""),
        (replace(BUILT, glibc="2.9"), "it was compiled with glibc 2.36, and this has 2.9"),
        (replace(BUILT, glibc=""), "it was compiled with glibc 2.36, and this has none"),
    ],
)
def test_what_is_lacking_is_named(this: Target, why: str) -> None:
    assert obstacle(BUILT, this) == why


def test_what_was_written_here_runs_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "built-for.json"
    assert main("write", str(path)) == 0
    assert load(path) == here()
    assert main("check", str(path)) == 0
    path.write_text(json.dumps(asdict(replace(here(), architecture="other"))))
    assert main("check", str(path)) == 1
    assert "compiled for other" in capsys.readouterr().out
    assert main("write-any-cpu", str(path)) == 0
    assert load(path) == replace(here(), instructions=())


def test_a_file_of_another_kind_is_told(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("[]")
    with pytest.raises(RayhostError, match="cannot be read"):
        load(tmp_path / "x")
    assert main("check", str(tmp_path / "x")) == 1
