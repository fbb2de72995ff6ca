"""Hugging Face's BERT to GGUF: what is written, the same each time, and what is refused."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from rayhost.errors import RayhostError
from rayhost.models.bert import NORMALIZE, write_bert
from rayhost.models.gguf import read_info
from tests.support import tiny_hf_bert as tiny


def convert(target: Path, named: tiny.Tensors | None = None, **changes: Any) -> Path:
    files = tiny.files(**changes)
    write_bert(files.get, tiny.tensors() if named is None else named, "tiny", target)
    return target


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the metadata and the tensors of a GGUF."""
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: tensor for tensor in reader.tensors}


def test_the_metadata_is_what_llama_cpp_wants(tmp_path: Path) -> None:
    fields, _ = read(convert(tmp_path / "m.gguf"))
    assert fields["general.architecture"] == "bert"
    assert fields["general.name"] == "tiny"
    assert fields["bert.context_length"] == tiny.CONTEXT
    assert fields["bert.pooling_type"] == gguf.PoolingType.MEAN
    assert fields["bert.attention.causal"] is False
    assert fields["bert.attention.layer_norm_epsilon"] == pytest.approx(1e-12)
    assert fields[NORMALIZE] is True
    assert read_info(tmp_path / "m.gguf").quantization == "F16"


def test_words_are_marked_where_they_begin(tmp_path: Path) -> None:
    fields, _ = read(convert(tmp_path / "m.gguf"))
    tokens = fields["tokenizer.ggml.tokens"]
    assert tokens[:6] == [*tiny.SPECIAL, "▁a"]
    assert tokens[tiny.WORDS.index("##a")] == "a"
    assert tokens[tiny.WORDS.index("##ing")] == "ing"
    assert tokens[-3:] == [f"[PAD{number}]" for number in range(tiny.ROWS - 3, tiny.ROWS)]
    kinds = fields["tokenizer.ggml.token_type"]
    assert kinds[:6] == [gguf.TokenType.CONTROL] * 5 + [gguf.TokenType.NORMAL]
    assert kinds[-3:] == [gguf.TokenType.UNUSED] * 3
    assert fields["tokenizer.ggml.bos_token_id"] == 2
    assert fields["tokenizer.ggml.seperator_token_id"] == 3
    assert fields["tokenizer.ggml.normalizer.lowercase"] is True
    assert fields["tokenizer.ggml.normalizer.strip_accents"] is True


def test_large_matrices_are_halved_and_the_rest_is_as_it_was(tmp_path: Path) -> None:
    _, tensors = read(convert(tmp_path / "m.gguf"))
    given = tiny.tensors()
    words, positions = tensors["token_embd.weight"], tensors["position_embd.weight"]
    assert words.data.dtype == np.float16
    assert np.array_equal(words.data, given["embeddings.word_embeddings.weight"].astype("f2"))
    assert np.array_equal(positions.data, given["embeddings.position_embeddings.weight"])
    assert tensors["blk.1.ffn_down.bias"].data.dtype == np.float32
    assert tensors["blk.0.ffn_up.weight"].data.shape == (tiny.WIDE, tiny.SIZE)
    assert not any("pool" in name or "position_ids" in name for name in tensors)
    assert len(tensors) == 5 + 16 * tiny.LAYERS


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    one, other = convert(tmp_path / "1.gguf"), convert(tmp_path / "2.gguf")
    assert one.read_bytes() == other.read_bytes()


def test_names_may_begin_with_the_model_s(tmp_path: Path) -> None:
    prefixed = {f"bert.{name}": values for name, values in tiny.tensors().items()}
    one = convert(tmp_path / "1.gguf", prefixed)
    assert one.read_bytes() == convert(tmp_path / "2.gguf").read_bytes()


@pytest.mark.parametrize(
    ("mode", "pooling"),
    [
        ("pooling_mode_cls_token", gguf.PoolingType.CLS),
        ("pooling_mode_lasttoken", gguf.PoolingType.LAST),
    ],
)
def test_other_poolings_and_no_normalisation_are_kept(
    tmp_path: Path, mode: str, pooling: gguf.PoolingType
) -> None:
    path = convert(tmp_path / "m.gguf", pooling={mode: True}, modules=tiny.MODULES[:2])
    fields, _ = read(path)
    assert (fields["bert.pooling_type"], fields[NORMALIZE]) == (pooling, False)


def without(name: str) -> tiny.Tensors:
    return {key: values for key, values in tiny.tensors().items() if key != name}


def normalizer(**changes: Any) -> dict[str, Any]:
    return {**tiny.TOKENIZER, "normalizer": {**tiny.TOKENIZER["normalizer"], **changes}}


def model(**changes: Any) -> dict[str, Any]:
    return {**tiny.TOKENIZER, "model": {**tiny.TOKENIZER["model"], **changes}}


def test_letters_stay_as_they_are_where_the_model_wants_that(tmp_path: Path) -> None:
    fields, _ = read(convert(tmp_path / "m.gguf", tokenizer=normalizer(lowercase=False)))
    assert fields["tokenizer.ggml.normalizer.lowercase"] is False
    assert fields["tokenizer.ggml.normalizer.strip_accents"] is False


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"config": {}}, r"config\.json: Object missing"),
        ({"config": {**tiny.CONFIG, "architectures": ["T5Model"]}}, "T5Model cannot be converted"),
        ({"config": {**tiny.CONFIG, "hidden_act": "relu"}}, "relu with absolute positions"),
        ({"config": {**tiny.CONFIG, "position_embedding_type": "rotary"}}, "gelu with rotary"),
        ({"config": {**tiny.CONFIG, "vocab_size": 9}}, "ids beyond the 9 embeddings"),
        ({"config": {**tiny.CONFIG, "vocab_size": -1}}, "ids beyond the -1 embeddings"),
        ({"config": {**tiny.CONFIG, "hidden_size": 64}}, r"word_embeddings.weight is float32"),
        ({"config": {**tiny.CONFIG, "num_hidden_layers": 3}}, r"layer\.2\S+ is not there"),
        ({"modules": tiny.MODULES[::2]}, "no one pooling"),
        ({"modules": [*tiny.MODULES, tiny.MODULES[1]]}, "no one pooling"),
        ({"modules": [{**tiny.MODULES[1], "path": "../1_Pooling"}]}, "no one pooling"),
        ({"modules": [{**tiny.MODULES[1], "path": "else"}]}, "else/config.json is not there"),
        ({"pooling": {"pooling_mode_max_tokens": True}}, "pooling_mode_max_tokens cannot be"),
        ({"pooling": {}}, "no pooling cannot be converted"),
        ({"tokenizer": normalizer(type="NFC")}, "WordPiece after NFC cannot be converted"),
        ({"tokenizer": model(type="BPE")}, "BPE after BertNormalizer cannot be converted"),
        ({"tokenizer": model(vocab={"a": -1})}, "ids beyond"),
        (
            {"tokenizer": {**model(vocab={"a": 9}), "added_tokens": []}},
            r"tokenizer\.json: has no \[CLS\] token",
        ),
        ({"tokenizer": []}, r"tokenizer\.json: Expected"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(RayhostError, match=said):
        convert(tmp_path / "m.gguf", **changes)


def test_tensors_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    name = "encoder.layer.1.output.dense.bias"
    with pytest.raises(RayhostError, match=f"{name} is not there"):
        convert(tmp_path / "1.gguf", without(name))
    with pytest.raises(RayhostError, match=f"{name} is int64"):
        convert(tmp_path / "2.gguf", without(name) | {name: np.arange(tiny.SIZE)})
    large = "encoder.layer.0.output.dense.weight"
    with pytest.raises(RayhostError, match=f"{large} has numbers that are too large"):
        convert(tmp_path / "3.gguf", tiny.tensors() | {large: tiny.tensors()[large] * 1e6})


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    files = tiny.files()
    del files["tokenizer.json"]
    with pytest.raises(RayhostError, match=r"tokenizer\.json is not there"):
        write_bert(files.get, tiny.tensors(), "tiny", tmp_path / "m.gguf")
