"""Which weights llama.cpp copies into another order on a CPU. Pure.

The conditions of `ggml_repack_get_optimal_repack_type` in ggml-cpu/repack.cpp of the llama.cpp that
the pinned llama-cpp-python carries; a build with AMX runs without these (engine/llama.py).
"""

from collections.abc import Collection, Mapping

_AVX2 = {"Q4_0": 8, "Q4_K": 8, "IQ4_NL": 8, "MXFP4": 8}
_AVX512 = {"Q2_K": 8}
_DOT = {
    **{"Q4_0": 4, "Q8_0": 4, "IQ4_NL": 4, "MXFP4": 4, "Q1_0": 4},
    **{"Q4_K": 8, "Q5_K": 8, "Q6_K": 8},
}


def repacked(flags: Collection[str]) -> Mapping[str, int]:
    """Return the weight types that are copied, each with what must divide a tensor's rows.

    `flags` are instruction sets by the names of `baseline.cpu.FLAGS`.
    """
    found: dict[str, int] = {}
    if "AVX2" in flags:
        found |= _AVX2
    if "AVX-512" in flags:
        found |= _AVX512
    if "NEON dot product" in flags or "NEON i8mm" in flags:
        found |= _DOT
    return found
