"""A model that llama.cpp loads and that cannot generate: one layer of BERT, all zeros."""

from pathlib import Path

import gguf
import numpy as np

SIZE = 32
TOKENS = 128
CONTEXT = 64


def write_tiny_bert(path: Path) -> Path:
    """Write the model and return `path`."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(SIZE)
    writer.add_block_count(1)
    writer.add_feed_forward_length(SIZE)
    writer.add_head_count(1)
    writer.add_layer_norm_eps(1e-5)
    writer.add_causal_attention(False)
    writer.add_vocab_size(TOKENS)
    writer.add_tokenizer_model("bert")
    writer.add_token_type_count(2)
    writer.add_token_list([f"token{number}" for number in range(TOKENS)])

    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (TOKENS, SIZE),
        "position_embd.weight": (CONTEXT, SIZE),
        "blk.0.attn_q.weight": (SIZE, SIZE),
        "blk.0.attn_k.weight": (SIZE, SIZE),
        "blk.0.attn_v.weight": (SIZE, SIZE),
        "blk.0.attn_output.weight": (SIZE, SIZE),
        "blk.0.ffn_up.weight": (SIZE, SIZE),
        "blk.0.ffn_down.weight": (SIZE, SIZE),
    }
    for norm in ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"):
        shapes |= {f"{norm}.weight": (SIZE,), f"{norm}.bias": (SIZE,)}
    for tensor, shape in shapes.items():
        writer.add_tensor(tensor, np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
