"""What of a model decides how much memory it takes: the layers' cells and the weights by type.

Pure, and small enough to be written into the catalog, so that a model can be planned for before it
is downloaded. The rules are those of llama.cpp's `llama-hparams.cpp` and its models' loaders.
"""

from collections import Counter
from typing import Literal

import msgspec

from rayhost.models.gguf import GgufInfo, Tensor

# Layers in a period of which the last sees all tokens, where the file does not say: by architecture
# (`load_swa_pattern` in llama.cpp's models). Below zero: the first instead of the last.
_WINDOW_PERIOD = {
    **{"gemma2": 2, "gemma3": 6, "gemma3n": 5, "gemma-embedding": 6, "gpt-oss": 2},
    **{"cohere2": 4, "exaone4": 4, "llama4": 4, "olmo2": 4, "plamo3": 8, "smallthinker": -4},
}
# They compute a text whole, so nothing is kept of it (`create_memory` in llama-model.cpp).
_WITHOUT_CELLS = {
    *("bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "eurobert", "modern-bert"),
    *("jina-bert-v2", "jina-bert-v3", "gemma-embedding"),
}
_ALWAYS_RECURRENT = {"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"}

Use = Literal["rows", "matrix", "both"]


class Layers(msgspec.Struct, frozen=True):
    """`count` layers that are alike. `key` and `value` are the elements of one cell.

    `window` is how many tokens they look back on, 0 for all; `state` the bytes that a sequence
    keeps of a recurrent layer, whatever its length.
    """

    count: int
    key: int
    value: int
    window: int = 0
    state: int = 0


class Weights(msgspec.Struct, frozen=True):
    """Bytes of one tensor type. `rows` is the power of two, up to 16, that divides their rows.

    `use`: rows looked up by token, matrices multiplied with, or both (tied embeddings).
    """

    type: str
    size: int
    use: Use
    rows: int = 1


class Shape(msgspec.Struct, frozen=True):
    """One model. `attention` is the width of all query heads together, in elements."""

    architecture: str
    quantization: str
    parameters: int
    embedding: int
    feed_forward: int
    heads: int
    attention: int
    vocabulary: int
    strings: int  # tokens and merges, which llama.cpp holds as strings
    train_context: int  # 0: the file does not say
    layers: tuple[Layers, ...]
    weights: tuple[Weights, ...]

    @property
    def weight_bytes(self) -> int:
        """All tensors of the file."""
        return sum(part.size for part in self.weights)


def shape_of(info: GgufInfo) -> Shape:
    """Return the shape of the model whose header was read."""
    read = _Reader(info)
    heads = max(read.each("attention.head_count", 1))
    layers = Counter(read.layer(number) for number in range(len(read)))
    return Shape(
        architecture=info.architecture,
        quantization=info.quantization,
        parameters=info.parameters,
        embedding=read.embedding,
        feed_forward=max(read.each("feed_forward_length", 4 * read.embedding)),
        heads=heads,
        attention=heads * read.key_length,
        vocabulary=_vocabulary(info),
        strings=sum(info.lengths.get(f"tokenizer.ggml.{part}", 0) for part in ("tokens", "merges")),
        train_context=info.context_length or 0,
        layers=tuple(msgspec.structs.replace(kind, count=n) for kind, n in layers.items()),
        weights=_weights(info.tensors),
    )


class _Reader:
    """The hyperparameters, with llama.cpp's defaults for those that a file leaves out."""

    def __init__(self, info: GgufInfo) -> None:
        self._info = info
        self.embedding = info.embedding_length or 0
        self._heads = self.each("attention.head_count", 1)
        # A file without the key has as many heads of keys as of queries.
        self._kv_heads = self.each("attention.head_count_kv", None) or self._heads
        usual = self.embedding // max(1, *self._heads)
        self.key_length = self.one("attention.key_length", usual)
        self._value_length = self.one("attention.value_length", usual)
        self._window = self.one("attention.sliding_window", 0)

    def __len__(self) -> int:
        return self._info.block_count or 0

    def one(self, key: str, default: int) -> int:
        value = self._info.metadata.get(f"{self._info.architecture}.{key}", default)
        return value if type(value) is int else default

    def each(self, key: str, default: int | None) -> tuple[int, ...]:
        """Return a figure of every layer; where the file has neither, the default or nothing."""
        name = f"{self._info.architecture}.{key}"
        numbers = tuple(int(n) for n in self._info.numbers.get(name, ()) if not isinstance(n, str))
        if numbers:
            return numbers
        value = self._info.metadata.get(name)
        if type(value) is int:
            return (value,)
        return () if default is None else (default,)

    def layer(self, number: int) -> Layers:
        heads = self._kv_heads[number] if number < len(self._kv_heads) else self._kv_heads[-1]
        recurrent = self._info.architecture in _ALWAYS_RECURRENT
        state = self._state() if recurrent or heads == 0 else 0
        if recurrent or self._info.architecture in _WITHOUT_CELLS:
            heads = 0
        return Layers(
            count=1,
            key=heads * self.key_length,
            value=heads * self._value_length,
            window=self._window if heads and self._windowed(number) else 0,
            state=state,
        )

    def _windowed(self, number: int) -> bool:
        if not self._window:
            return False
        pattern = self.each("attention.sliding_window_pattern", None)
        if len(pattern) > number:
            return bool(pattern[number])
        period = pattern[0] if pattern else _WINDOW_PERIOD.get(self._info.architecture, 0)
        if period == 0:
            # An architecture that may not use its window at all: then every cell is needed.
            return False
        return number % -period != 0 if period < 0 else number % period < period - 1

    def _state(self) -> int:
        """Bytes of one sequence in a recurrent layer, always in 32 bits."""
        wkv, conv = self.one("wkv.head_size", 0), self.one("ssm.conv_kernel", 0)
        short, inner = self.one("shortconv.l_cache", 0), self.one("ssm.inner_size", 0)
        depth = self.one("ssm.state_size", 0)
        if wkv:
            shifted, kept = self.one("token_shift_count", 2) * self.embedding, self.embedding * wkv
        elif short:
            shifted, kept = self.embedding * (short - 1), 0
        else:
            groups = self.one("ssm.group_count", 0)
            shifted, kept = max(0, conv - 1) * (inner + 2 * groups * depth), depth * inner
        return 4 * (shifted + kept)


def _vocabulary(info: GgufInfo) -> int:
    tokens = info.lengths.get("tokenizer.ggml.tokens")
    if tokens is not None:
        return tokens
    value = info.metadata.get(f"{info.architecture}.vocab_size", 0)
    return value if type(value) is int else 0


def _weights(tensors: tuple[Tensor, ...]) -> tuple[Weights, ...]:
    tied = not any(tensor.name == "output.weight" for tensor in tensors)
    sizes = Counter[tuple[str, Use, int]]()
    for tensor in tensors:
        sizes[tensor.type, *_use(tensor, tied)] += tensor.size
    return tuple(
        Weights(type=kind, size=size, use=use, rows=rows)
        for (kind, use, rows), size in sorted(sizes.items())
    )


def _use(tensor: Tensor, tied: bool) -> tuple[Use, int]:
    """Return what a tensor is for, and what divides its rows if it is multiplied with."""
    if tensor.name.startswith(("token_embd.", "position_embd.", "token_types.", "per_layer_token")):
        if not (tied and tensor.name == "token_embd.weight"):
            return "rows", 1
        return "both", _divisor(tensor.shape[1])
    if len(tensor.shape) < 2:
        return "matrix", 1
    return "matrix", _divisor(tensor.shape[1])


def _divisor(rows: int) -> int:
    return next(power for power in (16, 8, 4, 2, 1) if rows % power == 0)
