"""What a hostile file says of itself: refused by name at once, or a shape that can be priced."""

import math
import struct
from dataclasses import astuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rayhost.governor.costs import Costs, Setting, costs
from rayhost.models.gguf import GgufError, GgufInfo, parse
from rayhost.models.shape import shape_of
from tests.models.headers import entry, header, string, tensor

ARCHITECTURES = ("llama", "gemma3", "smallthinker", "bert", "mamba", "rwkv7", "lfm2")
KEYS = (
    *("block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size"),
    *("attention.head_count", "attention.head_count_kv", "attention.key_length"),
    *("attention.value_length", "attention.sliding_window", "attention.sliding_window_pattern"),
    *("wkv.head_size", "token_shift_count", "shortconv.l_cache", "ssm.conv_kernel"),
    *("ssm.inner_size", "ssm.state_size", "ssm.group_count"),
)
CODES = {4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
INT32, INT64, UINT64, FLOAT, BOOL, TEXT, LIST = 5, 11, 10, 6, 7, 8, 9
HONEST = {
    "block_count": entry("llama.block_count", 4, struct.pack("<I", 4)),
    "embedding_length": entry("llama.embedding_length", 4, struct.pack("<I", 64)),
    "attention.head_count": entry("llama.attention.head_count", 4, struct.pack("<I", 4)),
}


def number(kind: int, value: float) -> bytes:
    return struct.pack("<" + CODES[kind], value)


def many(kind: int, *values: float) -> bytes:
    return struct.pack("<IQ", kind, len(values)) + b"".join(number(kind, n) for n in values)


def read(architecture: str, *entries: bytes) -> GgufInfo:
    named = entry("general.architecture", 8, string(architecture))
    start = header(named, *entries, tensors=1) + tensor("token_embd.weight", (64,))
    return parse(start + bytes(512), "evil.gguf")


def refusal(architecture: str, *entries: bytes) -> str:
    with pytest.raises(GgufError) as caught:
        shape_of(read(architecture, *entries))
    return str(caught.value)


LENGTHS = "expected a whole number from 0 to 16,777,216"


@pytest.mark.parametrize(
    ("key", "kind", "value", "told"),
    [
        ("block_count", UINT64, number(UINT64, 1 << 63), "is 9,223,372,036,854,775,808; "),
        ("block_count", UINT64, number(UINT64, 4_000_000_000), "from 1 to 1,024"),
        ("block_count", INT32, number(INT32, -3), "is -3; expected a whole number from 1 to"),
        ("block_count", INT32, number(INT32, 0), "is 0; "),
        ("embedding_length", INT32, number(INT32, -64), "is -64; "),
        ("embedding_length", INT32, number(INT32, 0), "is 0; "),
        ("attention.head_count", INT32, number(INT32, -4), "is -4; "),
        ("attention.head_count", UINT64, number(UINT64, 65_537), "from 0 to 65,536"),
        ("attention.head_count", LIST, many(FLOAT, math.inf), "[0] is inf; "),
        ("attention.head_count", TEXT, string("four"), "is 'four'; "),
        ("attention.head_count", TEXT, string("x" * 20_000), "is a list or text of 20,000; "),
        ("attention.head_count", BOOL, number(BOOL, 1), "is True; "),
        ("attention.head_count", FLOAT, number(FLOAT, 4.5), "is 4.5; "),
        ("attention.head_count_kv", LIST, many(INT32, 2, -2), "[1] is -2; "),
        ("attention.head_count_kv", LIST, many(INT32), "is a list or text of 0; "),
        ("attention.key_length", INT32, number(INT32, -4000), f"is -4,000; {LENGTHS}"),
        ("attention.key_length", LIST, many(INT32, 16, 16), f"list or text of 2; {LENGTHS}"),
        ("attention.sliding_window", INT32, number(INT32, -5), f"is -5; {LENGTHS}"),
        ("feed_forward_length", LIST, many(FLOAT, math.nan), f"[0] is nan; {LENGTHS}"),
        ("feed_forward_length", LIST, many(INT32, *range(1025)), "list or text of 1,025; "),
        ("context_length", INT32, number(INT32, -5), "is -5; "),
        ("context_length", INT32, number(INT32, 1), "from 2 to 2,147,483,648"),
        ("vocab_size", INT64, number(INT64, 1 << 40), LENGTHS),
    ],
)
def test_an_absurd_figure_is_refused_with_what_would_be_valid(
    key: str, kind: int, value: bytes, told: str
) -> None:
    others = (one for name, one in HONEST.items() if name != key)
    line = refusal("llama", *others, entry(f"llama.{key}", kind, value))
    assert line.startswith(f"evil.gguf: llama.{key}")
    assert told in line


def test_the_window_pattern_and_the_state_are_bounded_where_they_are_used() -> None:
    window = entry("llama.attention.sliding_window", 4, number(4, 32))
    pattern = entry("llama.attention.sliding_window_pattern", INT32, number(INT32, -1))
    assert shape_of(read("llama", *HONEST.values(), pattern)).layers[0].window == 0
    assert "pattern is -1" in refusal("llama", *HONEST.values(), window, pattern)
    blocks = entry("mamba.block_count", 4, number(4, 2))
    inner = entry("mamba.ssm.inner_size", UINT64, number(UINT64, 1 << 60))
    assert "mamba.ssm.inner_size is " in refusal("mamba", blocks, inner)


def test_a_vocabulary_of_numbers_is_bounded() -> None:
    size = (1 << 24) + 1
    tokens = entry("tokenizer.ggml.tokens", LIST, struct.pack("<IQ", 0, size) + bytes(size))
    assert "length of tokenizer.ggml.tokens is 16,777,217; " in refusal("llama", tokens)


def test_an_architecture_of_many_lines_makes_no_line_of_its_own() -> None:
    name = "evil\n" * 1000
    line = refusal(name, entry(f"{name}.block_count", 4, number(4, 0)))
    assert "\n" not in line
    assert len(line) < 400


def test_what_a_file_leaves_out_is_llama_cpps_default() -> None:
    bare = shape_of(read("llama"))
    assert (bare.embedding, bare.heads, bare.train_context, bare.layers) == (0, 1, 0, ())
    shape = shape_of(read("llama", *HONEST.values()))
    assert (shape.feed_forward, shape.attention, shape.layers[0].key) == (256, 64, 64)


PLAUSIBLE = st.integers(0, 5000)
NUMBERS = {
    4: PLAUSIBLE | st.integers(0, 2**32 - 1),
    5: PLAUSIBLE | st.integers(-(2**31), 2**31 - 1),
    6: st.floats(width=32),
    7: st.booleans(),
    10: PLAUSIBLE | st.integers(0, 2**64 - 1),
    11: PLAUSIBLE | st.integers(-(2**63), 2**63 - 1),
    12: st.floats(),
}


@st.composite
def values(draw: st.DrawFn) -> tuple[int, bytes]:
    """A metadata value of any type: plausible more often than chance would have it."""
    form = draw(st.sampled_from(["plausible", "plausible", "number", "list", "text"]))
    if form == "plausible":
        return 4, number(4, draw(PLAUSIBLE))
    if form == "text":
        return TEXT, string(draw(st.text(max_size=20)))
    kind = draw(st.sampled_from(sorted(NUMBERS)))
    if form == "number":
        return kind, number(kind, draw(NUMBERS[kind]))
    return LIST, many(kind, *draw(st.lists(NUMBERS[kind], max_size=6)))


FLASH = Setting(
    1 << 20, 64, 8192, kv_type="q8_0", kv_layout="unified", flash_attention=True, snapshot_bytes=1
)
SETTINGS = [Setting(2, 1, 2), Setting(1 << 20, 64, 8192), Setting(2, 1, 2, swa_full=False), FLASH]


def priced(info: GgufInfo, setting: Setting) -> Costs | str:
    """Return what a model takes, or why nobody can say."""
    try:
        shape = shape_of(info)
    except GgufError as error:
        return str(error)
    return costs(shape, setting, {"F32": 8}, constrained=True)


LARGEST = {  # all at their bounds: what is accepted must be fit to be priced
    **{key: (4, number(4, 1 << 24)) for key in KEYS},
    "block_count": (4, number(4, 1024)),
    "context_length": (4, number(4, 1 << 31)),
    "attention.head_count": (4, number(4, 1 << 16)),
    "attention.head_count_kv": (4, number(4, 1 << 16)),
}


@given(
    st.sampled_from(ARCHITECTURES),
    st.dictionaries(st.sampled_from(KEYS), values()),
    st.sampled_from(SETTINGS),
)
@example("llama", LARGEST, FLASH)
@example("mamba", LARGEST, FLASH)
def test_any_metadata_gives_sizes_that_can_be_priced_or_a_gguf_error(
    architecture: str, found: dict[str, tuple[int, bytes]], setting: Setting
) -> None:
    entries = (entry(f"{architecture}.{key}", *value) for key, value in found.items())
    taken = priced(read(architecture, *entries), setting)
    if isinstance(taken, str):
        assert taken.startswith("evil.gguf: ")
        assert len(taken.splitlines()) == 1
        return
    for size in astuple(taken):
        assert math.isfinite(size)
        assert size >= 0


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mamba"])
def test_the_largest_figures_are_accepted(architecture: str) -> None:
    entries = (entry(f"{architecture}.{key}", *value) for key, value in LARGEST.items())
    taken = priced(read(architecture, *entries), FLASH)
    assert isinstance(taken, Costs)
    assert taken.needed > 1 << 50
