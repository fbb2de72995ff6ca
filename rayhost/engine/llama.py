"""One model and one context through llama_cpp's low-level API.

Invariant: after `decode` returns, the batch is in the KV cache whole; after it raises, nothing
is known and the process must end. `LlamaEngine` belongs to one thread, `LlamaCodec` may be used
from another (the vocabulary never changes after loading).
"""

import ctypes
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as llama

from rayhost.engine.base import Batch, EngineFailed, Facts, LoadError, Logits, State
from rayhost.engine.codec import LlamaCodec
from rayhost.ipc.messages import Load

_KV_TYPES = {"f16": llama.GGML_TYPE_F16, "q8_0": llama.GGML_TYPE_Q8_0}
_LOG_ERROR = 4
_LOG_CONTINUES = 5


class _Log:
    """llama.cpp's log, kept for its last complaint instead of printed."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self._keep = False
        self.callback = llama.llama_log_callback(self._hear)  # llama.cpp keeps only the pointer

    def _hear(self, level: int, text: bytes, _data: ctypes.c_void_p) -> None:
        if level != _LOG_CONTINUES:
            self._keep = level == _LOG_ERROR
        if self._keep:
            self.errors.append(text.decode(errors="replace").strip())
            del self.errors[:-16]

    def reason(self, fallback: str) -> str:
        """Return the first complaint since the last `clear`: later ones only repeat the failure."""
        return self.errors[0] if self.errors else fallback


_log = _Log()


class LlamaEngine:
    """A loaded model with a context of `concurrency` slots of `context` tokens each."""

    def __init__(self, load: Load) -> None:
        llama.llama_log_set(_log.callback, ctypes.c_void_p(0))
        llama.llama_backend_init()
        _log.errors.clear()
        options = llama.llama_model_default_params()
        options.n_gpu_layers = 0
        # llama.cpp's AMX kernels crash on Q4_1 prefill (and have given garbage: ggml-org/llama.cpp
        # pull 16315, issue 20824). `make setup` builds without them; a foreign build may have them,
        # and without the extra buffer types it is slower but right.
        options.use_extra_bufts = b"AMX_INT8 = 1" not in llama.llama_print_system_info()
        self._model = llama.llama_model_load_from_file(load.path.encode(), options)
        if not self._model:
            raise LoadError(_log.reason("llama.cpp could not read the model file"))
        architecture = _metadata(self._model, "general.architecture")
        vocab = llama.llama_model_get_vocab(self._model)
        self._context = llama.llama_init_from_model(self._model, self._context_options(load))
        if not self._context:
            size = f"{load.concurrency} sequences of {load.context} tokens"
            raise LoadError(_log.reason(f"llama.cpp could not create a context of {size}"))
        self._memory = llama.llama_get_memory(self._context)
        self._unified = load.kv_layout == "unified"
        if not self._memory or llama.llama_model_has_encoder(self._model):
            raise LoadError(f"the architecture {architecture!r} does not generate text")
        self.codec = LlamaCodec(self._model, vocab, load.context)
        self.facts = Facts(
            architecture=architecture,
            quantization=(
                llama.llama_ftype_name(llama.llama_model_ftype(self._model)) or b"unknown"
            ).decode(),
            parameters=llama.llama_model_n_params(self._model),
            size_bytes=llama.llama_model_size(self._model),
            context=min(load.context, llama.llama_n_ctx_seq(self._context)),
            train_context=llama.llama_model_n_ctx_train(self._model),
            vocabulary=llama.llama_vocab_n_tokens(vocab),
            concurrency=load.concurrency,
            batch=load.batch,
            chat=self.codec.has_chat,
            streams=not self._unified,
            # A recurrent state cannot go back; of a sliding window the cells before it are gone.
            trims=not (
                llama.llama_model_is_recurrent(self._model)
                or llama.llama_model_is_hybrid(self._model)
                or llama.llama_model_n_swa(self._model) > 0
            ),
        )
        # What the bytes of a snapshot depend on, besides the model file.
        self.state_key = " ".join(
            (
                llama_cpp.__version__,
                llama.llama_print_system_info().decode(),
                f"{load.kv_type} {load.kv_layout} flash_attention={load.flash_attention}",
                f"context={load.context}",  # a longer snapshot could not be restored
            )
        )
        self._logits_place = (0, 0)
        self._logits: Logits = np.empty((0, 0), np.float32)
        self.batch = Batch(load.batch)
        self._raw = self._share(self.batch)
        self._warm_up()

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

    def _share(self, batch: Batch) -> Any:
        """Return a llama_batch over the batch's own arrays: filling those fills it."""
        raw = llama.llama_batch()
        pointer = ctypes.POINTER
        raw.token = batch.tokens.ctypes.data_as(pointer(ctypes.c_int32))
        raw.pos = batch.positions.ctypes.data_as(pointer(ctypes.c_int32))
        raw.logits = batch.wants_logits.ctypes.data_as(pointer(ctypes.c_int8))
        self._one_each = np.ones(batch.capacity, np.int32)
        raw.n_seq_id = self._one_each.ctypes.data_as(pointer(ctypes.c_int32))
        first = batch.slots.ctypes.data
        self._slot_pointers = np.arange(batch.capacity, dtype=np.uint64) * 4 + np.uint64(first)
        raw.seq_id = self._slot_pointers.ctypes.data_as(pointer(pointer(ctypes.c_int32)))
        return raw

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
        self._raw.n_tokens = self.batch.size
        status = llama.llama_decode(self._context, self._raw)
        if status != 0:
            raise EngineFailed(
                f"llama_decode returned {status} for a batch of {self.batch.size} tokens"
                + "".join(f"; {line}" for line in _log.errors[-2:])
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
        if not llama.llama_state_seq_set_data(self._context, _bytes(state), state.size, slot):
            raise EngineFailed(f"a snapshot of {state.size} bytes could not be restored")


def _bytes(state: State) -> Any:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


def _metadata(model: Any, key: str) -> str:
    buffer = ctypes.create_string_buffer(256)
    size = llama.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return buffer.value.decode(errors="replace") if size >= 0 else "unknown"


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
    llama.llama_log_set(_log.callback, ctypes.c_void_p(0))
    llama.llama_backend_init()
    _log.errors.clear()
    options = llama.llama_model_quantize_default_params()
    options.nthread = threads
    options.ftype = FILE_TYPES[file_type]
    options.allow_requantize = True
    if embedding is not None:
        options.token_embedding_type = EMBEDDING_TYPES[embedding]
        options.output_tensor_type = EMBEDDING_TYPES[embedding]
    status = llama.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(options))
    if status != 0:
        raise LoadError(_log.reason(f"llama.cpp could not write {file_type} (status {status})"))
