"""Model files for tests: a random llama small enough to load in milliseconds, and a broken one.

The same seed gives the same file, byte for byte. Its tokenizer round-trips any UTF-8 text, and it
never generates a control token on its own, so a run's length is what the test asked for.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import gguf
import numpy as np

MERGES = (
    *("t h", "th e", "i n", "e r", "a n", "o u", "l l", "l o", "h e", "he ll", "hell o"),
    *("Ġ t", "Ġt he", "Ġ a", "Ġ w", "Ġw o", "r l", "rl d", "Ġwo rld"),
    *("Ã ©", "ð Ł"),  # a whole two-byte character, and half of an emoji
)
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")  # bos, start of turn, end of turn

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

EMBEDDING = 64
HEADS = 2  # of size 32, which flash attention supports
LAYERS = 2
FEED_FORWARD = 128


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each of the 256 bytes, by byte value."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(256, 512))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def vocabulary() -> list[str]:
    """Every token by id: the 256 bytes, the merges, then the control tokens."""
    return [*byte_alphabet(), *(merge.replace(" ", "") for merge in MERGES), *CONTROL]


def write_tiny_llama(
    path: Path,
    *,
    seed: int = 0,
    context: int = 512,
    chat: bool | str = True,
    add_bos: bool = False,
    printable: bool = False,
    name: str = "tiny",
    pooling: gguf.PoolingType | None = None,
    file_type: gguf.LlamaFileType | None = gguf.LlamaFileType.ALL_F32,
    marks: Mapping[str, gguf.TokenType] = MappingProxyType({}),
) -> Path:
    """Write a two-layer random llama (f32, about 480 kB, 280 tokens) and return `path`.

    `chat` adds a ChatML template, or the one given, `marks` further tokens, `add_bos` makes the
    tokenizer lead with `<|endoftext|>`, and `printable` keeps greedy output to printable ASCII
    where it would else be any bytes at all.
    `pooling` makes it a model for embeddings.
    """
    n_text = len(vocabulary()) - len(CONTROL)
    tokens = [*vocabulary(), *marks]
    bos, _, end = range(n_text, n_text + len(CONTROL))

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    if file_type is not None:
        writer.add_file_type(file_type)
    writer.add_context_length(context)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(EMBEDDING // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.NORMAL] * n_text
        + [gguf.TokenType.CONTROL] * len(CONTROL)
        + [*marks.values()]
    )
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(bos)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(add_bos)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    if chat:
        writer.add_chat_template(chat if isinstance(chat, str) else CHATML)

    for tensor, values in _weights(tokens, n_text, seed, printable).items():
        writer.add_tensor(tensor, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_broken_gguf(path: Path) -> Path:
    """Write a GGUF that starts well (magic, version, counts) and ends in mid-header."""
    whole = write_tiny_llama(path).read_bytes()
    path.write_bytes(whole[:1000])
    return path


def _weights(tokens: list[str], n_text: int, seed: int, printable: bool) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, scale: float = 1.0) -> np.ndarray:
        return random.normal(0, scale / columns**0.5, (rows, columns)).astype(np.float32)

    # Large enough inside the blocks that the context, and not the last token alone, decides.
    weights = {"token_embd.weight": random.normal(0, 1, (len(tokens), EMBEDDING))}
    for layer in range(LAYERS):
        block = {
            "attn_norm.weight": np.ones(EMBEDDING),
            "ffn_norm.weight": np.ones(EMBEDDING),
            "attn_q.weight": matrix(EMBEDDING, EMBEDDING, 2),
            "attn_k.weight": matrix(EMBEDDING, EMBEDDING, 2),
            "attn_v.weight": matrix(EMBEDDING, EMBEDDING, 2),
            "attn_output.weight": matrix(EMBEDDING, EMBEDDING, 2),
            "ffn_gate.weight": matrix(FEED_FORWARD, EMBEDDING, 2),
            "ffn_up.weight": matrix(FEED_FORWARD, EMBEDDING, 2),
            "ffn_down.weight": matrix(EMBEDDING, FEED_FORWARD, 2),
        }
        weights |= {f"blk.{layer}.{part}": values for part, values in block.items()}
    weights["output_norm.weight"] = np.ones(EMBEDDING)

    # A zero row is a logit of 0, which never beats the best of some hundred random ones.
    output = matrix(len(tokens), EMBEDDING, 4)
    for token, text in enumerate(tokens):
        if token >= n_text or (printable and not _is_ascii_text(text)):
            output[token] = 0
    weights["output.weight"] = output
    return {tensor: values.astype(np.float32) for tensor, values in weights.items()}


def _is_ascii_text(token: str) -> bool:
    return all("!" <= character <= "~" or character == "Ġ" for character in token)
