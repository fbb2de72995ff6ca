"""BERT as its authors describe it, in float64 numpy: the reference for vectors by llama.cpp.

Reads Hugging Face's tensors by their names and computes one sequence at a time, with the exact
gelu. Attention Is All You Need (2017), with the layout of BERT (2018).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
_erf = np.vectorize(math.erf)


class NumpyBert:
    """A BERT with its tensors; `eps` is the layer norms'."""

    def __init__(self, tensors: Mapping[str, NDArray[Any]], heads: int, eps: float) -> None:
        self._tensors = tensors
        self._heads = heads
        self._eps = eps
        self._layers = sum(name.endswith("attention.self.query.weight") for name in tensors)

    def sentence(self, tokens: Sequence[int]) -> Numbers:
        """Return the mean of the tokens' vectors, of length 1."""
        mean: Numbers = self.hidden(tokens).mean(axis=0)
        return mean / np.linalg.norm(mean)

    def hidden(self, tokens: Sequence[int]) -> Numbers:
        """Return the last layer's (tokens, size) vectors."""
        part = "embeddings."
        state = self._get(f"{part}word_embeddings.weight")[list(tokens)]
        state = state + self._get(f"{part}position_embeddings.weight")[: len(tokens)]
        state = state + self._get(f"{part}token_type_embeddings.weight")[0]
        state = self._norm(state, f"{part}LayerNorm")
        for layer in range(self._layers):
            part = f"encoder.layer.{layer}."
            state = self._norm(
                state + self._attention(state, part), f"{part}attention.output.LayerNorm"
            )
            wide = self._linear(state, f"{part}intermediate.dense")
            wide = wide * 0.5 * (1 + _erf(wide / math.sqrt(2)))
            state = self._norm(
                state + self._linear(wide, f"{part}output.dense"), f"{part}output.LayerNorm"
            )
        return state

    def _attention(self, state: Numbers, part: str) -> Numbers:
        length, size = state.shape
        query, key, value = (
            self._linear(state, f"{part}attention.self.{name}")
            .reshape(length, self._heads, size // self._heads)
            .transpose(1, 0, 2)
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(size / self._heads)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        together = (weights @ value).transpose(1, 0, 2).reshape(length, size)
        return self._linear(together, f"{part}attention.output.dense")

    def _linear(self, state: Numbers, name: str) -> Numbers:
        return state @ self._get(f"{name}.weight").T + self._get(f"{name}.bias")

    def _norm(self, state: Numbers, name: str) -> Numbers:
        centred = state - state.mean(axis=-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self._eps)
        scaled: Numbers = centred / spread * self._get(f"{name}.weight")
        return scaled + self._get(f"{name}.bias")

    def _get(self, name: str) -> Numbers:
        values: Numbers = self._tensors[name].astype(np.float64)
        return values
