"""A BERT that makes embeddings, as Hugging Face publishes it, to a GGUF of f16 weights.

The same files give the same bytes. Reads nothing but what it is given, and refuses what llama.cpp
would compute otherwise than the model's authors. Imports numpy and gguf: for `convert`'s process.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
from numpy.typing import NDArray

from rayhost.errors import RayhostError
from rayhost.models.wordpiece import Vocabulary, read_vocabulary

ARCHITECTURE = "BertModel"
NORMALIZE = "rayhost.embedding.normalize"  # GGUF key: vectors are to have the length 1

Tensors = Mapping[str, NDArray[Any]]
Read = Callable[[str], bytes | None]  # a file of the model's folder, None where there is none


class _Config(msgspec.Struct, frozen=True):
    architectures: tuple[str, ...]
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    vocab_size: int
    layer_norm_eps: float
    hidden_act: str = "gelu"
    position_embedding_type: str = "absolute"


class _Module(msgspec.Struct, frozen=True):
    path: str
    type: str


class _Pooling(msgspec.Struct, frozen=True):
    pooling_mode_mean_tokens: bool = False
    pooling_mode_cls_token: bool = False
    pooling_mode_lasttoken: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False


# Hugging Face's name of a part, and GGUF's.
_EMBEDDINGS = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
# Added to every token once: not worth the loss of bits.
_IN_FULL = {"position_embd.weight", "token_types.weight"}


def write_bert(read: Read, tensors: Tensors, name: str, target: Path) -> None:
    """Write the model to the new file `target`. Raises RayhostError for one it cannot convert."""
    config = _decode(read, "config.json", _Config)
    _check(config)
    vocabulary = read_vocabulary(_need(read, "tokenizer.json"), config.vocab_size)
    pooling, normalize = _pooling(read)
    writer = gguf.GGUFWriter(target, "bert")
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling)
    writer.add_bool(NORMALIZE, normalize)
    writer.add_vocab_size(config.vocab_size)
    writer.add_token_type_count(config.type_vocab_size)
    _add_vocabulary(writer, vocabulary)
    for tensor, shape in _shapes(config).items():
        writer.add_tensor(_gguf_name(tensor), _weights(tensors, tensor, shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _check(config: _Config) -> None:
    if ARCHITECTURE not in config.architectures:
        found = ", ".join(config.architectures)[:100] or "nothing"
        raise RayhostError(f"config.json: {found} cannot be converted, {ARCHITECTURE} can")
    if (config.hidden_act, config.position_embedding_type) != ("gelu", "absolute"):
        raise RayhostError(
            f"config.json: {config.hidden_act[:40]} with {config.position_embedding_type[:40]} "
            "positions cannot be converted, gelu with absolute ones can"
        )


def _pooling(read: Read) -> tuple[gguf.PoolingType, bool]:
    """Return how a sentence's vector comes out of its tokens', and whether it is normalised."""
    modules = _decode(read, "modules.json", tuple[_Module, ...])
    poolings = [one.path for one in modules if one.type.endswith(".Pooling")]
    if len(poolings) != 1 or not re.fullmatch(r"\w{1,40}", poolings[0]):
        raise RayhostError("modules.json: names no one pooling of tokens into a vector")
    mode = _decode(read, f"{poolings[0]}/config.json", _Pooling)
    types = {
        "pooling_mode_mean_tokens": gguf.PoolingType.MEAN,
        "pooling_mode_cls_token": gguf.PoolingType.CLS,
        "pooling_mode_lasttoken": gguf.PoolingType.LAST,
    }
    wanted = [field for field in mode.__struct_fields__ if getattr(mode, field)]
    if len(wanted) != 1 or wanted[0] not in types:
        raise RayhostError(
            f"{poolings[0]}/config.json: {' with '.join(wanted) or 'no pooling'} cannot be "
            f"converted, one of {', '.join(types)} can"
        )
    return types[wanted[0]], any(one.type.endswith(".Normalize") for one in modules)


def _add_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    kinds = [
        gguf.TokenType.CONTROL
        if token in vocabulary.control
        else gguf.TokenType.NORMAL
        if kept
        else gguf.TokenType.UNUSED
        for token, kept in enumerate(vocabulary.kept)
    ]
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(kinds)
    begin, end, unknown, pad, mask = vocabulary.special
    writer.add_bos_token_id(begin)
    writer.add_sep_token_id(end)
    writer.add_unk_token_id(unknown)
    writer.add_pad_token_id(pad)
    writer.add_mask_token_id(mask)
    writer.add_bool("tokenizer.ggml.normalizer.lowercase", vocabulary.lowercase)
    writer.add_bool("tokenizer.ggml.normalizer.strip_accents", vocabulary.strip_accents)


def _shapes(config: _Config) -> dict[str, tuple[int, ...]]:
    """Return every tensor that the model must have, by Hugging Face's name."""
    size, wide = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.vocab_size, size),
        "embeddings.position_embeddings.weight": (config.max_position_embeddings, size),
        "embeddings.token_type_embeddings.weight": (config.type_vocab_size, size),
        "embeddings.LayerNorm.weight": (size,),
        "embeddings.LayerNorm.bias": (size,),
    }
    matrices = {part: (size, size) for part in _LAYER if not part.endswith("LayerNorm")}
    matrices |= {"intermediate.dense": (wide, size), "output.dense": (size, wide)}
    for layer in range(config.num_hidden_layers):
        for part in _LAYER:
            name, shape = f"encoder.layer.{layer}.{part}", matrices.get(part, (size,))
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def _gguf_name(tensor: str) -> str:
    part, _, kind = tensor.rpartition(".")
    if part in _EMBEDDINGS:
        return f"{_EMBEDDINGS[part]}.{kind}"
    _, _, layer, inside = part.split(".", 3)
    return f"blk.{layer}.{_LAYER[inside]}.{kind}"


def _weights(tensors: Tensors, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    found = tensors.get(name, tensors.get(f"bert.{name}"))
    if found is None or found.shape != shape or found.dtype.kind != "f":
        what = "is not there" if found is None else f"is {found.dtype} of {list(found.shape)}"
        raise RayhostError(f"the tensor {name} {what}, not numbers of {list(shape)}")
    full = len(shape) == 1 or _gguf_name(name) in _IN_FULL
    with np.errstate(over="ignore"):  # seen below
        weights = found.astype(np.float32 if full else np.float16)
    if not np.isfinite(weights).all():
        raise RayhostError(f"the tensor {name} has numbers that are too large for f16, or none")
    return weights


def _need(read: Read, file: str) -> bytes:
    raw = read(file)
    if raw is None:
        raise RayhostError(f"{file} is not there")
    return raw


def _decode(read: Read, file: str, schema: Any) -> Any:
    try:
        return msgspec.json.decode(_need(read, file), type=schema)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RayhostError(f"{file}: {error}") from error
