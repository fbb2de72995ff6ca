"""A model that llama.cpp loads and that cannot generate: two layers of BERT with random weights.

Its words are single letters, digits and punctuation; anything else is unknown. The same seed gives
the same weights, whatever pools them.
"""

from pathlib import Path

import gguf
import numpy as np

SIZE = 32
HEADS = 2
LAYERS = 2
CONTEXT = 64
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
UNKNOWN, BEGIN, END = 1, 2, 3
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,?!"
WORDS = [*SPECIAL, *(f"▁{letter}" for letter in LETTERS), *LETTERS]
TOKENS = len(WORDS)

Weights = dict[str, np.ndarray]


def weights(seed: int = 0) -> Weights:
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return random.normal(0, 2 / columns**0.5, (rows, columns)).astype(np.float32)

    made = {
        "token_embd.weight": matrix(TOKENS, SIZE),
        "position_embd.weight": matrix(CONTEXT, SIZE),
        "token_types.weight": matrix(2, SIZE),
    }
    norms = ["token_embd_norm"]
    for layer in range(LAYERS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"):
            made[f"blk.{layer}.{part}.weight"] = matrix(SIZE, SIZE)
        norms += [f"blk.{layer}.attn_output_norm", f"blk.{layer}.layer_output_norm"]
    for norm in norms:
        made[f"{norm}.weight"] = np.ones(SIZE, np.float32)
        made[f"{norm}.bias"] = random.normal(0, 0.1, SIZE).astype(np.float32)
    # What makes a score of the first token's vector; last, so that the rest is the same without.
    made["cls.weight"] = matrix(SIZE, SIZE)
    made["cls.bias"] = random.normal(0, 0.1, SIZE).astype(np.float32)
    made["cls.output.weight"] = matrix(1, SIZE)
    made["cls.output.bias"] = np.array([0.25], np.float32)
    return made


def write_tiny_bert(
    path: Path,
    pooling: gguf.PoolingType | None = None,
    *,
    seed: int = 0,
    normalize: bool | None = None,
    rerank_template: str | None = None,
) -> Path:
    """Write the model and return `path`; without a pooling it is for nothing."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(SIZE)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(SIZE)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-5)
    writer.add_causal_attention(False)
    writer.add_vocab_size(TOKENS)
    writer.add_tokenizer_model("bert")
    writer.add_token_type_count(2)
    writer.add_token_list(WORDS)
    writer.add_token_types(
        [gguf.TokenType.CONTROL] * len(SPECIAL) + [gguf.TokenType.NORMAL] * (TOKENS - len(SPECIAL))
    )
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(END)
    writer.add_sep_token_id(END)
    writer.add_unk_token_id(UNKNOWN)
    # As in GGUFs of rerankers: a pair is [CLS] query [SEP] document [SEP].
    writer.add_add_eos_token(True)
    writer.add_add_sep_token(False)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    if normalize is not None:
        writer.add_bool("rayhost.embedding.normalize", normalize)
    if rerank_template is not None:
        writer.add_chat_template([{"name": "rerank", "template": rerank_template}])
    for tensor, values in weights(seed).items():
        if pooling is gguf.PoolingType.RANK or not tensor.startswith("cls."):
            writer.add_tensor(tensor, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
