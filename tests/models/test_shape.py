"""A model's shape: by the file's own words, and with llama.cpp's defaults where it has none."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from rayhost.models import catalog, catalog_shapes
from rayhost.models.gguf import GgufInfo, Scalar, Tensor, read_info
from rayhost.models.shape import Layers, Shape, Weights, shape_of
from rayhost.models.store import Store, default_root
from tests.support.tiny_gguf import write_tiny_llama


def info(
    architecture: str = "llama",
    *,
    blocks: int = 6,
    numbers: dict[str, tuple[Scalar, ...]] | None = None,
    tensors: tuple[Tensor, ...] = (),
    **scalars: int,
) -> GgufInfo:
    keys = {"embedding_length": 64, "block_count": blocks, **scalars}
    named = {f"{architecture}.{key.replace('__', '.')}": value for key, value in keys.items()}
    return GgufInfo(
        architecture=architecture,
        name=None,
        quantization="F32",
        parameters=1,
        tensor_bytes=0,
        chat=False,
        context_length=None,
        block_count=blocks,
        embedding_length=64,
        heads=None,
        kv_heads=None,
        metadata=named,
        numbers={f"{architecture}.{key}": value for key, value in (numbers or {}).items()},
        tensors=tensors,
    )


def layers(read: GgufInfo) -> tuple[Layers, ...]:
    return shape_of(read).layers


def tensor(name: str, *shape: int, size: int = 100) -> Tensor:
    return Tensor(name, "Q4_0", shape, 1, size, 0)


def test_it_reads_a_real_file(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", context=384)
    shape = shape_of(read_info(path))
    assert shape.layers == (Layers(count=2, key=64, value=64),)
    assert (shape.embedding, shape.feed_forward, shape.heads, shape.attention) == (64, 128, 2, 64)
    assert (shape.vocabulary, shape.strings, shape.train_context) == (280, 301, 384)
    assert shape.weight_bytes == read_info(path).tensor_bytes


def test_grouped_heads_hold_fewer_keys() -> None:
    read = info(attention__head_count=8, attention__head_count_kv=2)
    assert layers(read) == (Layers(count=6, key=16, value=16),)


def test_without_grouped_heads_there_are_as_many_keys_as_queries() -> None:
    assert layers(info(attention__head_count=8)) == (Layers(count=6, key=64, value=64),)


def test_lengths_of_heads_may_be_given() -> None:
    read = info(
        attention__head_count=4,
        attention__head_count_kv=1,
        attention__key_length=256,
        attention__value_length=128,
    )
    assert layers(read) == (Layers(count=6, key=256, value=128),)
    assert shape_of(read).attention == 1024


def test_heads_may_differ_by_layer_and_one_without_is_recurrent() -> None:
    read = info(
        "lfm2",
        blocks=3,
        attention__head_count=4,
        shortconv__l_cache=3,
        numbers={"attention.head_count_kv": (0, 2, 0)},
    )
    conv = Layers(count=2, key=0, value=0, state=4 * 64 * 2)
    assert layers(read) == (conv, Layers(count=1, key=32, value=32))


def test_a_recurrent_model_has_states_and_no_cells() -> None:
    read = info("mamba", ssm__conv_kernel=4, ssm__inner_size=128, ssm__state_size=16)
    assert layers(read) == (Layers(count=6, key=0, value=0, state=4 * (3 * 128 + 16 * 128)),)


def test_an_embedding_model_keeps_no_cells() -> None:
    assert layers(info("bert", attention__head_count=4)) == (Layers(count=6, key=0, value=0),)


@pytest.mark.parametrize(
    ("architecture", "given", "windowed"),
    [
        ("gemma3", {}, 5),  # of six layers, by llama.cpp's default
        ("gemma2", {}, 3),
        ("smallthinker", {}, 4),  # the first of four sees everything
        ("llama", {}, 0),  # never uses a window
        ("gemma3", {"attention__sliding_window_pattern": 3}, 4),
    ],
)
def test_layers_with_a_window_are_counted(
    architecture: str, given: dict[str, Any], windowed: int
) -> None:
    read = info(architecture, attention__head_count=4, attention__sliding_window=32, **given)
    assert sum(kind.count for kind in layers(read) if kind.window == 32) == windowed
    assert sum(kind.count for kind in layers(read)) == 6


def test_a_pattern_by_layer_is_taken_as_it_is() -> None:
    pattern: dict[str, Any] = {"attention.sliding_window_pattern": (True, False, True)}
    read = info(
        "gpt-oss",
        blocks=3,
        attention__head_count=4,
        attention__sliding_window=32,
        numbers=pattern,
    )
    assert [(kind.count, kind.window) for kind in layers(read)] == [(2, 32), (1, 0)]


def test_embeddings_are_tied_where_there_is_no_output() -> None:
    rows = tensor("token_embd.weight", 64, 24)
    matrix = tensor("blk.0.attn_q.weight", 64, 12, size=7)
    tied = shape_of(info(tensors=(rows, matrix))).weights
    assert tied == (Weights("Q4_0", 100, "both", 8), Weights("Q4_0", 7, "matrix", 4))
    untied = shape_of(info(tensors=(rows, matrix, tensor("output.weight", 64, 24)))).weights
    assert Weights("Q4_0", 100, "rows", 1) in untied


def test_token_embeddings_of_one_dimension_are_no_crash() -> None:
    (part,) = shape_of(info(tensors=(tensor("token_embd.weight", 64),))).weights
    assert part == Weights("Q4_0", 100, "both", 1)


def test_a_shape_survives_being_written_down() -> None:
    for shape in catalog_shapes.BY_NAME.values():
        assert msgspec.json.decode(msgspec.json.encode(shape), type=Shape) == shape


@pytest.mark.heavy
@pytest.mark.parametrize("name", sorted(catalog_shapes.BY_NAME))
def test_the_catalogs_shapes_are_those_of_its_files(name: str) -> None:
    entry = catalog.BY_NAME[name]
    stored = Store(default_root()).pull(name, entry.source, entry.sha256)
    assert shape_of(read_info(stored.path)) == catalog_shapes.BY_NAME[name]
