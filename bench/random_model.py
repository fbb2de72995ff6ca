"""Writes a model of random weights in the shape of Llama 3.2 1B: the same cost, no meaning.

    python -m bench.random_model PATH [Q4_0|Q8_0]

Speed and memory do not depend on what weights mean. 0.7 GB in Q4_0, 1.3 GB in Q8_0, in 20 s. A
word of the benchmarks' texts is a token, as most are in a real vocabulary.
"""

import os
import sys
from pathlib import Path
from random import Random

import gguf
import numpy as np

from bench.traffic import WORDS

EMBEDDING, FEED_FORWARD, HEADS, KV_HEADS, LAYERS = 2048, 8192, 32, 8, 16
KV_WIDTH = EMBEDDING // HEADS * KV_HEADS
VOCABULARY, MERGES, CONTROL = 128_256, 280_147, 256
_SPACE = chr(288)  # as GPT-2 writes it
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
BLOCK_BYTES = {"Q4_0": 18, "Q8_0": 34}  # of 32 weights, the first two a scale in f16


def write(path: Path, quantization: str = "Q4_0", *, blank: bool = False) -> Path:
    """Write the model and return `path`. Raises KeyError for another quantization.

    A blank one has no weights, but a hole of their size, which takes no disk: to be planned for.
    """
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("random-1b")
    writer.add_context_length(131_072)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(EMBEDDING // HEADS)
    writer.add_rope_freq_base(500_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{quantization}"])
    _add_vocabulary(writer)
    _add_weights(writer, quantization, blank=blank)
    hole = sum(one.nbytes + gguf.GGUF_DEFAULT_ALIGNMENT for one in writer.tensors[0].values())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    if blank:
        writer.write_ti_data_to_file()
    else:
        writer.write_tensors_to_file()
    writer.close()
    if blank:
        os.truncate(path, path.stat().st_size + hole)
    return path


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    """Add as many tokens and merges as the real one has: llama.cpp holds them all as strings."""
    random = Random(0)
    tokens = _letters()
    merges: list[str] = []
    for word in WORDS:
        for end in range(1, len(word) + 1):  # from the space before it on, letter by letter
            left, whole = _SPACE + word[: end - 1], _SPACE + word[:end]
            if whole not in tokens:
                tokens.append(whole)
                merges.append(f"{left} {word[end - 1]}")
    known = set(tokens)
    while len(merges) < MERGES:
        left, right = random.choice(tokens), random.choice(tokens[:4000])
        whole = left + right
        if len(whole) > 14:
            continue
        if len(tokens) < VOCABULARY - CONTROL:
            if whole in known:
                continue
            known.add(whole)
            tokens.append(whole)
        merges.append(f"{left} {right}")
    n_text = len(tokens)
    tokens += [f"<|control_{number}|>" for number in range(VOCABULARY - n_text)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    kinds = [gguf.TokenType.NORMAL] * n_text + [gguf.TokenType.CONTROL] * (VOCABULARY - n_text)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(n_text)
    writer.add_eos_token_id(n_text + 1)
    writer.add_chat_template(CHAT_TEMPLATE)


def _letters() -> list[str]:
    """Return a character for each byte, as GPT-2 has them; others llama.cpp spells at length."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte if byte in printable else 256 + others.index(byte)) for byte in range(256)]


def _add_weights(writer: gguf.GGUFWriter, quantization: str, *, blank: bool) -> None:
    random = np.random.default_rng(0)
    kind, size = gguf.GGMLQuantizationType[quantization], BLOCK_BYTES[quantization]
    scale = np.frombuffer(np.float16(0.005).tobytes(), np.uint8)

    def matrix(name: str, rows: int, columns: int) -> None:
        shape = (rows, columns // 32, size)
        if blank:
            blocks = np.zeros(shape, np.uint8)
        else:
            blocks = random.integers(0, 256, shape, dtype=np.uint8)
            blocks[:, :, :2] = scale
        writer.add_tensor(f"{name}.weight", blocks.reshape(rows, -1), raw_dtype=kind)

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(EMBEDDING, np.float32))

    matrix("token_embd", VOCABULARY, EMBEDDING)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        norm(f"{block}.attn_norm")
        norm(f"{block}.ffn_norm")
        matrix(f"{block}.attn_q", EMBEDDING, EMBEDDING)
        matrix(f"{block}.attn_k", KV_WIDTH, EMBEDDING)
        matrix(f"{block}.attn_v", KV_WIDTH, EMBEDDING)
        matrix(f"{block}.attn_output", EMBEDDING, EMBEDDING)
        matrix(f"{block}.ffn_gate", FEED_FORWARD, EMBEDDING)
        matrix(f"{block}.ffn_up", FEED_FORWARD, EMBEDDING)
        matrix(f"{block}.ffn_down", EMBEDDING, FEED_FORWARD)
    norm("output_norm")


if __name__ == "__main__":
    write(Path(sys.argv[1]), *sys.argv[2:3])
