"""One model that turns prompts into vectors, or rates pairs of texts, through llama_cpp.

Invariant: a batch holds whole prompts, and no cell outlives it: each `encode` begins afresh. What
pools a prompt's tokens into one vector is the file's own choice. Belongs to one thread.
"""

import dataclasses
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as llama

from rayhost.engine.base import Batch, EngineFailed, Facts, LoadError, Vector
from rayhost.engine.native import (
    NativeBatch,
    architecture_of,
    log,
    metadata,
    quantization_of,
    task_of,
)
from rayhost.engine.pairs import PairCodec
from rayhost.ipc.messages import Load

_NORMALIZE = "rayhost.embedding.normalize"  # written by our own conversion; else yes, as everywhere


class LlamaEmbedder:
    """A model with room for `concurrency` prompts of at most `context` tokens at once."""

    def __init__(self, load: Load, model: Any) -> None:
        """`model` is what `native.open_model` returned. Raises LoadError."""
        self._model = model
        architecture = architecture_of(model)
        if llama.llama_model_has_encoder(model) and llama.llama_model_has_decoder(model):
            raise LoadError(f"the architecture {architecture!r} makes no embeddings here")
        task = task_of(model)
        vocab = llama.llama_model_get_vocab(model)
        train_context = llama.llama_model_n_ctx_train(model)
        # Beyond what it was trained for, a model may have no position for a token.
        context = min(load.context, train_context)
        self._context: Any = None
        self._open(load, context)
        ranks = task == "rank"
        dimensions = (llama.llama_model_n_cls_out if ranks else llama.llama_model_n_embd_out)(model)
        self._normalize = not ranks and metadata(model, _NORMALIZE) != "false"
        self.codec = PairCodec(model, vocab, context, ranks=ranks)
        self.facts = Facts(
            architecture=architecture,
            quantization=quantization_of(model),
            parameters=llama.llama_model_n_params(model),
            size_bytes=llama.llama_model_size(model),
            context=context,
            train_context=train_context,
            vocabulary=llama.llama_vocab_n_tokens(vocab),
            concurrency=load.concurrency,
            batch=self.batch.capacity,
            chat=False,
            sliding_window=llama.llama_model_n_swa(model),
            task=task,
            dimensions=dimensions,
        )
        self._warm_up()

    def _open(self, load: Load, context: int) -> None:
        """Create a context instead of the one there is. Raises LoadError, and keeps that then."""
        # A prompt is computed whole, so the largest must fit; more than `ubatch` beside it would
        # cost memory with the square of it, and time for looking past each other's tokens.
        size = max(context, min(load.batch, load.ubatch))
        opened = llama.llama_init_from_model(self._model, _options(load, size))
        if not opened:
            raise LoadError(log.reason(f"llama.cpp could not create a context of {size} tokens"))
        if self._context:
            llama.llama_free(self._context)
        self._context = opened
        self._memory = llama.llama_get_memory(opened)
        self.batch = Batch(size)
        self.batch.wants_logits[:] = 1  # every token counts for its prompt's vector
        self._raw = NativeBatch(self.batch)

    def resize(self, load: Load) -> None:
        """Take other sizes. Raises LoadError where there is no room for them, and keeps its own."""
        log.errors.clear()
        context = min(load.context, self.facts.train_context)
        self._open(load, context)
        self.codec.context = context
        self.facts = dataclasses.replace(
            self.facts,
            context=context,
            concurrency=load.concurrency,
            batch=self.batch.capacity,
        )

    def encode(self) -> None:
        """Compute the batch. Raises EngineFailed."""
        if self._memory:
            llama.llama_memory_clear(self._memory, False)
        status = self._raw.decode(self._context)
        if status != 0:
            raise EngineFailed(
                f"llama_decode returned {status} for {self.batch.size} tokens to embed"
                + "".join(f"; {line}" for line in log.errors[-2:])
            )

    def vector(self, slot: int) -> Vector:
        """Return the `Facts.dimensions` numbers of a slot's prompt, of the last batch."""
        pointer = llama.llama_get_embeddings_seq(self._context, slot)
        if not pointer:
            raise EngineFailed(f"llama.cpp has no vector of slot {slot}")
        vector: Vector = np.ctypeslib.as_array(pointer, (self.facts.dimensions,)).copy()
        length = float(np.linalg.norm(vector)) if self._normalize else 0.0
        return vector / np.float32(length) if length else vector

    def _warm_up(self) -> None:
        """Embed one token. Raises LoadError for a model that cannot even do that."""
        self.batch.clear()
        self.batch.put(0, [0])
        try:
            self.encode()
            vector = self.vector(0)
        except EngineFailed as error:
            raise LoadError(f"the model loads but does not run: {error}") from error
        if not np.isfinite(vector).all():
            raise LoadError("the model computes vectors of no numbers: its weights are broken")
        self.batch.clear()


def _options(load: Load, batch: int) -> Any:
    options = llama.llama_context_default_params()
    options.n_ctx = batch
    options.n_seq_max = load.concurrency
    options.n_batch = options.n_ubatch = batch
    options.n_threads = options.n_threads_batch = load.threads
    options.embeddings = True
    # Whatever is best for text: 16 prompts of 16 tokens of all-MiniLM-L6-v2 take half the time with
    # it (8 of 64 a third), and one alone as long.
    options.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED
    # In streams, llama.cpp would cut the batch where one prompt is longer than another.
    options.kv_unified = True
    options.no_perf = True
    return options
