"""What of a model decides how much memory it takes: the layers' cells and the weights by type.

Pure, and small enough to be written into the catalog, so that a model can be planned for before it
is downloaded. The rules are those of llama.cpp's `llama-hparams.cpp` and its models' loaders.
Every figure of a file is bounded before it is used: a shape is safe to compute and to loop with.
"""

from collections import Counter
from functools import cached_property
from typing import Literal

import msgspec

from rayhost.models.gguf import MAX_KEPT_NUMBERS, GgufError, GgufInfo, Scalar, Tensor

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

# The most of a hostile file's figures; real models stay below a quarter of each.
_LAYERS = MAX_KEPT_NUMBERS  # llama.cpp takes 512
_HEADS = 1 << 16
_LENGTH = 1 << 24  # elements of a row, tokens of a window or a vocabulary
_CONTEXT = 1 << 31

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
    """Return the shape of the model whose header was read. Raises GgufError for absurd figures."""
    read = _Reader(info)
    heads = max(read.heads)
    layers = Counter(read.layer(number) for number in range(read.count))
    return Shape(
        architecture=info.architecture,
        quantization=info.quantization,
        parameters=info.parameters,
        embedding=read.embedding,
        feed_forward=max(read.each("feed_forward_length", 4 * read.embedding)),
        heads=heads,
        attention=heads * read.key_length,
        vocabulary=read.vocabulary(),
        strings=sum(info.lengths.get(f"tokenizer.ggml.{part}", 0) for part in ("tokens", "merges")),
        train_context=read.one("context_length", 0, least=2, most=_CONTEXT),
        layers=tuple(msgspec.structs.replace(kind, count=n) for kind, n in layers.items()),
        weights=_weights(info.tensors),
    )


class _Reader:
    """The hyperparameters, with llama.cpp's defaults for those that a file leaves out.

    What is there but of the wrong type is refused, as llama.cpp does, not taken for left out.
    """

    def __init__(self, info: GgufInfo) -> None:
        self._info = info
        self.count = self.one("block_count", 0, least=1, most=_LAYERS)
        self.embedding = self.one("embedding_length", 0, least=1)
        self.heads = self.each("attention.head_count", 1, most=_HEADS)
        # A file without the key has as many heads of keys as of queries.
        self._kv_heads = self.each("attention.head_count_kv", None, most=_HEADS) or self.heads
        usual = self.embedding // max(1, *self.heads)
        self.key_length = self.one("attention.key_length", usual)
        self._value_length = self.one("attention.value_length", usual)
        self._window = self.one("attention.sliding_window", 0)
        self._pattern = self.each("attention.sliding_window_pattern", None) if self._window else ()

    def one(self, key: str, default: int, *, least: int = 0, most: int = _LENGTH) -> int:
        """Return a figure of the model, the default where the file has none."""
        name = f"{self._info.architecture}.{key}"
        value = self._info.metadata.get(name)
        if value is not None:
            return self._bounded(name, value, least, most)
        if name in self._info.lengths:
            held = f"a list or text of {self._info.lengths[name]:,}"
            raise self._refused(name, held, least, most)
        return default

    def each(self, key: str, default: int | None, *, most: int = _LENGTH) -> tuple[int, ...]:
        """Return a figure of every layer; where the file has neither, the default or nothing."""
        name = f"{self._info.architecture}.{key}"
        if numbers := self._info.numbers.get(name):
            # llama.cpp takes lists of booleans for lists of numbers, but no single one.
            whole = (int(n) if isinstance(n, bool) else n for n in numbers)
            return tuple(self._bounded(f"{name}[{at}]", n, 0, most) for at, n in enumerate(whole))
        value = self.one(key, -1 if default is None else default, most=most)
        return () if value < 0 else (value,)

    def vocabulary(self) -> int:
        name = "tokenizer.ggml.tokens"
        tokens = self._info.lengths.get(name)
        if tokens is None:
            return self.one("vocab_size", 0)
        return self._bounded(f"length of {name}", tokens, 0, _LENGTH)

    def _bounded(self, name: str, value: Scalar, least: int, most: int) -> int:
        if type(value) is int and least <= value <= most:
            return value
        if isinstance(value, str):
            raise self._refused(name, repr(value[:40]), least, most)
        told = f"{value:,}" if type(value) is int else str(value)
        raise self._refused(name, told, least, most)

    def _refused(self, name: str, value: str, least: int, most: int) -> GgufError:
        # The name begins with the architecture, which a hostile file makes long or of many lines.
        key = name if name.isprintable() and len(name) <= 100 else repr(name[-100:])
        return GgufError(
            f"{self._info.where}: {key} is {value}; expected a whole number "
            f"from {least:,} to {most:,}"
        )

    def layer(self, number: int) -> Layers:
        heads = self._kv_heads[number] if number < len(self._kv_heads) else self._kv_heads[-1]
        recurrent = self._info.architecture in _ALWAYS_RECURRENT
        state = self._state if recurrent or heads == 0 else 0
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
        if len(self._pattern) > number:
            return bool(self._pattern[number])
        usual = _WINDOW_PERIOD.get(self._info.architecture, 0)
        period = self._pattern[0] if self._pattern else usual
        if period == 0:
            # An architecture that may not use its window at all: then every cell is needed.
            return False
        return number % -period != 0 if period < 0 else number % period < period - 1

    @cached_property
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
    divisor = _divisor(tensor.shape[1]) if len(tensor.shape) > 1 else 1
    if tensor.name.startswith(("token_embd.", "position_embd.", "token_types.", "per_layer_token")):
        tied &= tensor.name == "token_embd.weight"
        return ("both", divisor) if tied else ("rows", 1)
    return "matrix", divisor


def _divisor(rows: int) -> int:
    return next(power for power in (16, 8, 4, 2, 1) if rows % power == 0)
