"""The header reader: right on real files, and only GgufError on anything else."""

import struct
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhost.models.ggml_types import BLOCK, FILE_TYPE, TENSOR_TYPE
from rayhost.models.gguf import GgufError, GgufInfo, parse, read_info
from tests.models.headers import LLAMA, entry, header, string, tensor
from tests.support.tiny_gguf import write_broken_gguf, write_tiny_llama


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_llama(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


def test_it_agrees_with_the_gguf_package(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", context=384)
    theirs = gguf.GGUFReader(path)
    ours = read_info(path)
    assert ours.parameters == sum(int(tensor.n_elements) for tensor in theirs.tensors)
    assert ours.tensor_bytes == sum(int(tensor.n_bytes) for tensor in theirs.tensors)
    scalars = {
        key: field.contents()
        for key, field in theirs.fields.items()
        if field.types
        and field.types[0] != gguf.GGUFValueType.ARRAY
        and not key.startswith("GGUF.")
    }
    assert dict(ours.metadata) == {key: pytest.approx(value) for key, value in scalars.items()}


def test_it_reads_what_the_store_and_the_governor_need(tmp_path: Path) -> None:
    info = read_info(write_tiny_llama(tmp_path / "tiny.gguf", context=384, name="Tiny"))
    assert (info.architecture, info.name, info.quantization) == ("llama", "Tiny", "F32")
    assert (info.context_length, info.block_count, info.embedding_length) == (384, 2, 64)
    assert (info.heads, info.kv_heads, info.chat) == (2, 2, True)


def test_a_model_without_a_template_does_not_chat(tmp_path: Path) -> None:
    assert not read_info(write_tiny_llama(tmp_path / "base.gguf", chat=False)).chat


def test_type_tables_agree_with_the_gguf_package() -> None:
    for kind, size in gguf.GGML_QUANT_SIZES.items():
        if kind.name != "Q8_1":  # llama.cpp halved its two scales; the package did not follow
            assert BLOCK[kind.value] == size, kind
        assert TENSOR_TYPE[kind.value] == kind.name
    labels = {
        kind.value: kind.name.removeprefix("ALL_").removeprefix("MOSTLY_")
        for kind in gguf.LlamaFileType
    }
    for number in FILE_TYPE.keys() & labels.keys():
        assert FILE_TYPE[number] == labels[number]


def test_every_cut_of_a_file_is_an_error(tiny: bytes) -> None:
    for end in [*range(0, 12_000, 7), len(tiny) // 2, len(tiny) - 1]:
        with pytest.raises(GgufError):
            parse(tiny[:end], "cut")


def test_a_file_cut_in_its_tensors_is_called_cut_short(tiny: bytes) -> None:
    with pytest.raises(GgufError, match=r"^here: cut short: tensor 'output.weight' ends at byte"):
        parse(tiny[:-1], "here")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "middle of its header"),
        (b"PK\x03\x04", "not a GGUF file"),
        (header(LLAMA, version=1), "version 1 GGUF is not supported"),
        (header(LLAMA, version=3 << 24), "big-endian GGUF is not supported"),
        (header(LLAMA, tensors=1 << 60), "tensors, more than"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 1 << 63), "metadata entries, more than"),
        (header(), "names no architecture"),
        (header(entry("general.architecture", 4, bytes(4))), "names no architecture"),
        (header(LLAMA, LLAMA), "comes twice"),
        (header(LLAMA, entry("a", 13, bytes(4))), "unknown type 13"),
        (header(LLAMA, entry("a", 8, struct.pack("<Q", 1 << 62))), "middle of its header"),
        (header(LLAMA, string(b"x" * 70_000)), "bytes of name, more than"),
        (header(LLAMA, entry("a", 9, struct.pack("<IQ", 9, 1))), "array of unknown type 9"),
        (header(LLAMA, entry("a", 9, struct.pack("<IQ", 4, 1 << 63))), "middle of its header"),
        (header(LLAMA, entry("a", 9, struct.pack("<IQ", 8, 1 << 63))), "arrays of more than"),
        (header(LLAMA, entry("a", 9, struct.pack("<IQ", 8, 1 << 20))), "middle of its header"),
        (header(LLAMA, entry("general.alignment", 4, bytes(4))), "not a power of two"),
        (header(LLAMA, tensors=1) + tensor("t", ()), "0 dimensions"),
        (header(LLAMA, tensors=1) + tensor("t", (1, 1, 1, 1, 1)), "5 dimensions"),
        (header(LLAMA, tensors=1) + tensor("t", (8,), kind=99), "unknown type 99"),
        (header(LLAMA, tensors=1) + tensor("t", (8,), kind=2), "not a multiple of 32"),
        (header(LLAMA, tensors=1) + tensor("t", (1 << 63, 1 << 63)), "cut short"),
        (header(LLAMA, tensors=1) + tensor("t", (1,), offset=(1 << 64) - 1), "cut short"),
    ],
)
def test_a_hostile_header_is_refused_by_name(content: bytes, problem: str) -> None:
    with pytest.raises(GgufError, match=problem) as caught:
        parse(content, "evil.gguf")
    assert str(caught.value).startswith("evil.gguf: ")
    assert "\n" not in str(caught.value)


def test_strings_of_many_arrays_share_one_bound() -> None:
    # Empty strings cost 8 bytes each; the bound keeps a large hostile file from costing seconds.
    arrays = [
        entry(f"a{number}", 9, struct.pack("<IQ", 8, 1 << 20) + bytes(8 << 20))
        for number in range(5)
    ]
    with pytest.raises(GgufError, match="arrays of more than"):
        parse(header(LLAMA, *arrays), "many")


def test_long_strings_are_not_kept_but_known() -> None:
    info = parse(
        header(LLAMA, entry("tokenizer.chat_template", 8, string("x" * 20_000))), "template"
    )
    assert info.chat
    assert "tokenizer.chat_template" not in info.metadata
    assert info.lengths["tokenizer.chat_template"] == 20_000


def test_heads_that_differ_by_layer_are_not_one_number() -> None:
    per_layer = struct.pack("<IQII", 4, 2, 1, 2)
    info = parse(
        header(
            LLAMA,
            entry("llama.attention.head_count", 4, struct.pack("<I", 8)),
            entry("llama.attention.head_count_kv", 9, per_layer),
        ),
        "layers",
    )
    assert (info.heads, info.kv_heads) == (8, None)


def test_without_a_label_the_type_with_most_bytes_is_the_quantization() -> None:
    content = header(LLAMA, tensors=2) + tensor("a", (64,), kind=8) + tensor("b", (4,), offset=96)
    assert parse(content + bytes(256), "unlabelled").quantization == "Q8_0"


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty.gguf"
    empty.touch()
    for path, problem in [
        (empty, "empty"),
        (tmp_path, "directory"),
        (tmp_path / "none.gguf", "No such file"),
        (write_broken_gguf(tmp_path / "broken.gguf"), "middle of its header"),
    ]:
        with pytest.raises(GgufError, match=problem) as caught:
            read_info(path)
        assert str(path) in str(caught.value)


def parsed_or_refused(content: bytes) -> GgufInfo | None:
    try:
        return parse(content, "fuzz")
    except GgufError:
        return None


@given(st.binary(max_size=400))
def test_any_bytes_after_a_good_start_only_ever_give_a_gguf_error(tail: bytes) -> None:
    parsed_or_refused(b"GGUF" + struct.pack("<IQQ", 3, 1, 2) + tail)


@given(st.data())
def test_a_damaged_file_only_ever_gives_a_gguf_error(tiny: bytes, data: st.DataObject) -> None:
    damaged = bytearray(tiny)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 12_000))
        damaged[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
    info = parsed_or_refused(bytes(damaged))
    assert info is None or info.tensor_bytes >= 0
