"""A tiny random BERT as Hugging Face publishes one: the files of its folder, by name.

Its words are letters and a few whole words; the same seed gives the same bytes.
"""

import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE, HEADS, WIDE, LAYERS, CONTEXT = 32, 2, 48, 2, 40
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = "abcdefghijklmnopqrstuvwxyz.,!"
WORDS = (*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), "hello", "##ing", "world")
ROWS = len(WORDS) + 3  # embeddings of no token

Tensors = dict[str, NDArray[Any]]


def tensors(seed: int = 0) -> Tensors:
    random = np.random.default_rng(seed)

    def numbers(*shape: int) -> NDArray[Any]:
        return random.normal(0, 2 / shape[-1] ** 0.5, shape).astype(np.float32)

    made: Tensors = {
        "embeddings.word_embeddings.weight": numbers(ROWS, SIZE),
        "embeddings.position_embeddings.weight": numbers(CONTEXT, SIZE),
        "embeddings.token_type_embeddings.weight": numbers(2, SIZE),
        "embeddings.position_ids": np.arange(CONTEXT)[None],
        "pooler.dense.weight": numbers(SIZE, SIZE),
        "pooler.dense.bias": numbers(SIZE),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        part = f"encoder.layer.{layer}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            made[f"{part}.attention.{name}.weight"] = numbers(SIZE, SIZE)
            made[f"{part}.attention.{name}.bias"] = numbers(SIZE)
        made[f"{part}.intermediate.dense.weight"] = numbers(WIDE, SIZE)
        made[f"{part}.intermediate.dense.bias"] = numbers(WIDE)
        made[f"{part}.output.dense.weight"] = numbers(SIZE, WIDE)
        made[f"{part}.output.dense.bias"] = numbers(SIZE)
        norms += [f"{part}.attention.output.LayerNorm", f"{part}.output.LayerNorm"]
    for norm in norms:
        made[f"{norm}.weight"] = 1 + numbers(SIZE)
        made[f"{norm}.bias"] = numbers(SIZE)
    return made


def safetensors(named: Tensors) -> bytes:
    """Return a safetensors file of these."""
    types = {"float32": "F32", "float16": "F16", "int64": "I64"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, values in named.items():
        header[name] = {
            "dtype": types[str(values.dtype)],
            "shape": list(values.shape),
            "data_offsets": [at, at + values.nbytes],
        }
        at += values.nbytes
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + b"".join(v.tobytes() for v in named.values())


CONFIG: dict[str, Any] = {
    "architectures": ["BertModel"],
    "hidden_act": "gelu",
    "hidden_size": SIZE,
    "intermediate_size": WIDE,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": CONTEXT,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "position_embedding_type": "absolute",
    "type_vocab_size": 2,
    "vocab_size": ROWS,
}
TOKENIZER: dict[str, Any] = {
    "added_tokens": [
        {"id": number, "content": text, "special": True} for number, text in enumerate(SPECIAL)
    ],
    "normalizer": {"type": "BertNormalizer", "lowercase": True, "strip_accents": None},
    "model": {
        "type": "WordPiece",
        "continuing_subword_prefix": "##",
        "vocab": {word: number for number, word in enumerate(WORDS)},
    },
}
MODULES: list[dict[str, Any]] = [
    {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
POOLING: dict[str, Any] = {"word_embedding_dimension": SIZE, "pooling_mode_mean_tokens": True}


def files(seed: int = 0, named: Tensors | None = None, **changes: Any) -> dict[str, bytes]:
    """Return the folder's files; `changes` are other contents of JSON files, by their stem."""
    content = {"config": CONFIG, "tokenizer": TOKENIZER, "modules": MODULES, "pooling": POOLING}
    content |= changes
    paths = {"pooling": "1_Pooling/config.json"}
    found = {paths.get(stem, f"{stem}.json"): json.dumps(one) for stem, one in content.items()}
    weights = tensors(seed) if named is None else named
    return {name: text.encode() for name, text in found.items()} | {
        "model.safetensors": safetensors(weights)
    }
