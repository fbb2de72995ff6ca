"""One model and one context through llama_cpp's low-level API.

Invariant: after `decode` returns, the batch is in the KV cache whole; after it raises, nothing
is known and the process must end. `LlamaEngine` belongs to one thread, `LlamaCodec` may be used
from another (the vocabulary never changes after loading).
"""

import ctypes
import dataclasses
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as llama

from rayhost.engine.base import Batch, EngineFailed, Facts, LoadError, Logits, State
from rayhost.engine.codec import LlamaCodec
from rayhost.engine.native import (
    NativeBatch,
    architecture_of,
    log,
    open_model,
    quantization_of,
    task_of,
)
from rayhost.engine.states import with_streams
from rayhost.ipc.messages import OF_A_CONTEXT, Load

_KV_TYPES = {"f16": llama.GGML_TYPE_F16, "q8_0": llama.GGML_TYPE_Q8_0}


class LlamaEngine:
    """A loaded model with a context of `concurrency` slots of `context` tokens each."""

    def __init__(self, load: Load, model: Any = None) -> None:
        """`model` is what `native.open_model` returned for it; without one, it is opened here."""
        self._model = open_model(load) if model is None else model
        architecture = architecture_of(self._model)
        if task_of(self._model) != "generate":
            raise LoadError("the model is made for embeddings or for ranking: it writes no text")
        vocab = llama.llama_model_get_vocab(self._model)
        # A recurrent state cannot go back; of a sliding window the cells before it are gone.
        self._trims = not (
            llama.llama_model_is_recurrent(self._model)
            or llama.llama_model_is_hybrid(self._model)
            or llama.llama_model_n_swa(self._model) > 0
        )
        self._open(load)
        if not self._memory or llama.llama_model_has_encoder(self._model):
            raise LoadError(
                f"the architecture {architecture!r} does not generate text, and the file names no "
                "pooling (mean, cls, last or rank) to make embeddings by"
            )
        self.codec = LlamaCodec(self._model, vocab, load.context, load.chat_template)
        if load.chat_template:
            self.codec.try_template()
        self.facts = Facts(
            architecture=architecture,
            quantization=quantization_of(self._model),
            parameters=llama.llama_model_n_params(self._model),
            size_bytes=llama.llama_model_size(self._model),
            context=min(load.context, llama.llama_n_ctx_seq(self._context)),
            train_context=llama.llama_model_n_ctx_train(self._model),
            vocabulary=llama.llama_vocab_n_tokens(vocab),
            concurrency=load.concurrency,
            batch=self.batch.capacity,
            chat=self.codec.has_chat,
            tools=self.codec.tool_support(),
            streams=not self._unified,
            trims=self._trims,
            sliding_window=llama.llama_model_n_swa(self._model),
        )
        self._warm_up()

    def _open(self, load: Load) -> None:
        """Create the context, and what goes with its sizes. Raises LoadError."""
        self._load = load
        self._context = llama.llama_init_from_model(self._model, self._context_options(load))
        if not self._context:
            size = f"{load.concurrency} sequences of {load.context} tokens"
            raise LoadError(log.reason(f"llama.cpp could not create a context of {size}"))
        self._memory = llama.llama_get_memory(self._context)
        self._unified = load.kv_layout == "unified"
        # What the bytes of a snapshot depend on, besides the model file.
        self.state_key = " ".join(
            (
                llama_cpp.__version__,
                llama.llama_print_system_info().decode(),
                f"{load.kv_type} {load.kv_layout} flash_attention={load.flash_attention}",
                "" if self._trims else f"streams={self._streams}",  # see `states`
            )
        )
        self._logits_place = (0, 0)
        self._logits: Logits = np.empty((0, 0), np.float32)
        self.batch = Batch(load.batch)
        self._raw = NativeBatch(self.batch)

    def retune(self, load: Load) -> bool:
        """Take another number of threads, and keep the cells.

        Return False, with nothing done, where more of the context is to be another.
        """
        if any(getattr(load, name) != getattr(self._load, name) for name in OF_A_CONTEXT):
            return False
        self._load = load
        llama.llama_set_n_threads(self._context, load.threads, load.threads)
        return True

    def resize(self, load: Load) -> bool:
        """Take a context of other sizes or another KV type; the cells of every slot are gone.

        Return whether snapshots from before can still be restored. Raises LoadError when there is
        no room for it: then the context has its former sizes. Raises EngineFailed when there is
        no room for those either.
        """
        before, key = self._load, self.state_key
        try:
            self._reopen(load)
        except LoadError:
            try:
                self._reopen(before)
            except LoadError as error:
                raise EngineFailed(f"the context cannot be created again: {error}") from error
            raise
        return self.state_key == key

    @property
    def _streams(self) -> int:
        return 1 if self._unified else self._load.concurrency

    def _reopen(self, load: Load) -> None:
        """Replace the context: the one before is freed first, since memory may not hold both."""
        log.errors.clear()
        llama.llama_free(self._context)
        self._context = None
        self._open(load)
        self.facts = dataclasses.replace(
            self.facts,
            context=min(load.context, llama.llama_n_ctx_seq(self._context)),
            concurrency=load.concurrency,
            batch=load.batch,
            streams=not self._unified,
        )
        self.codec.context = self.facts.context

    @staticmethod
    def _context_options(load: Load) -> Any:
        options = llama.llama_context_default_params()
        options.n_ctx = load.context * load.concurrency
        options.n_seq_max = load.concurrency
        options.n_batch = load.batch
        options.n_ubatch = min(load.batch, load.ubatch)
        # The default reserves logits for a whole batch: 100 MB at a vocabulary of 49k.
        options.n_outputs_max = load.outputs or load.concurrency
        options.n_threads = load.threads
        options.n_threads_batch = load.threads
        options.flash_attn_type = (
            llama.LLAMA_FLASH_ATTN_TYPE_ENABLED
            if load.flash_attention
            else llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        options.type_k = _KV_TYPES[load.kv_type]
        options.type_v = _KV_TYPES[load.kv_type]
        options.kv_unified = load.kv_layout == "unified"
        options.no_perf = True
        return options

    def _warm_up(self) -> None:
        """Decode one token, so that the first request does not pay for cold pages and graphs.

        Raises LoadError for a model that cannot even do that: loading it again would not help.
        """
        self.batch.clear()
        self.batch.add(0, [0], 0, due=True)
        try:
            self.decode()
        except EngineFailed as error:
            raise LoadError(f"the model loads but does not run: {error}") from error
        if not np.isfinite(self.logits().max()):
            raise LoadError("the model computes logits that are no numbers: its weights are broken")
        self.forget(0)
        self.batch.clear()

    def decode(self) -> None:
        """Run the batch. Raises EngineFailed."""
        status = self._raw.decode(self._context)
        if status != 0:
            raise EngineFailed(
                f"llama_decode returned {status} for a batch of {self.batch.size} tokens"
                + "".join(f"; {line}" for line in log.errors[-2:])
            )

    def logits(self) -> Logits:
        """Return (batch.outputs, vocabulary) logits, writable, valid until the next decode."""
        pointer = llama.llama_get_logits(self._context)
        # Nearly always where they were: making the view anew takes a third of the time between two
        # decodes of one sequence.
        place = ctypes.addressof(pointer.contents), self.batch.outputs
        if place != self._logits_place:
            self._logits_place = place
            self._logits = np.ctypeslib.as_array(
                pointer, (self.batch.outputs, self.facts.vocabulary)
            )
        return self._logits

    def truncate(self, slot: int, length: int) -> None:
        """Free the KV cells of a slot from position `length` on.

        Unless `Facts.trims`, `length` is 0 or all that the slot holds.
        """
        if length == 0:
            self.forget(slot)
        elif self.facts.trims:
            llama.llama_memory_seq_rm(self._memory, slot, length, -1)

    def forget(self, slot: int) -> None:
        """Free every KV cell of a slot."""
        llama.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def copy(self, source: int, target: int, length: int) -> None:
        """Give `target` the first `length` cells of `source`, instead of what it holds.

        Unless `Facts.trims`, `length` is all that the source holds.
        """
        if self._unified and self.facts.trims:
            self.forget(target)
            llama.llama_memory_seq_cp(self._memory, source, target, 0, length)
            return
        # llama.cpp copies between streams as a whole stream, whatever it holds: 8 ms for one of
        # 2,048 cells of 23 kB, where this takes 1.5 ms for 330 tokens and 5 ms for 1,000.
        self.restore(target, self.snapshot(source))
        self.truncate(target, length)

    def snapshot_bytes(self, slot: int) -> int:
        """Return the size that a snapshot of a slot would have."""
        size: int = llama.llama_state_seq_get_size(self._context, slot)
        return size

    def snapshot(self, slot: int) -> State:
        """Return a copy of a slot's KV cells, in bytes that only this setup can read."""
        room = self.snapshot_bytes(slot)
        state = np.empty(room, np.uint8)
        if llama.llama_state_seq_get_data(self._context, _bytes(state), room, slot) != room:
            raise EngineFailed(f"the cells of slot {slot} could not be copied")
        return state

    def restore(self, slot: int, state: State) -> None:
        """Give a slot the cells of a snapshot, instead of what it holds.

        Raises EngineFailed where they do not fit.
        """
        if self._trims:
            try:
                state = with_streams(state, self._streams)
            except ValueError as error:
                raise EngineFailed(f"a snapshot cannot be restored: {error}") from None
        if not llama.llama_state_seq_set_data(self._context, _bytes(state), state.size, slot):
            raise EngineFailed(f"a snapshot of {state.size} bytes could not be restored")


def _bytes(state: State) -> Any:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


# The names that files are labelled with; the K types fall back where rows are no multiple of 256.
FILE_TYPES: dict[str, int] = {
    "F16": llama.LLAMA_FTYPE_MOSTLY_F16,
    "Q4_0": llama.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q4_1": llama.LLAMA_FTYPE_MOSTLY_Q4_1,
    "Q5_0": llama.LLAMA_FTYPE_MOSTLY_Q5_0,
    "Q5_1": llama.LLAMA_FTYPE_MOSTLY_Q5_1,
    "Q8_0": llama.LLAMA_FTYPE_MOSTLY_Q8_0,
    "IQ4_NL": llama.LLAMA_FTYPE_MOSTLY_IQ4_NL,
    "Q4_K_M": llama.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "Q5_K_M": llama.LLAMA_FTYPE_MOSTLY_Q5_K_M,
    "Q6_K": llama.LLAMA_FTYPE_MOSTLY_Q6_K,
}
EMBEDDING_TYPES: dict[str, int] = {
    "F16": llama.GGML_TYPE_F16,
    "Q4_0": llama.GGML_TYPE_Q4_0,
    "Q8_0": llama.GGML_TYPE_Q8_0,
}


def quantize(source: str, target: str, file_type: str, embedding: str | None, threads: int) -> None:
    """Write the model file `source` to `target` in another file type of `FILE_TYPES`.

    `embedding`, of `EMBEDDING_TYPES`, is for the token embeddings and the output matrix, which most
    small models share; None leaves it to llama.cpp. Raises LoadError with llama.cpp's reason.
    """
    log.begin()
    llama.llama_backend_init()
    options = llama.llama_model_quantize_default_params()
    options.nthread = threads
    options.ftype = FILE_TYPES[file_type]
    options.allow_requantize = True
    if embedding is not None:
        options.token_embedding_type = EMBEDDING_TYPES[embedding]
        options.output_tensor_type = EMBEDDING_TYPES[embedding]
    status = llama.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(options))
    if status != 0:
        raise LoadError(log.reason(f"llama.cpp could not write {file_type} (status {status})"))
