"""What every engine needs of llama.cpp: its log, a model file opened, a batch to hand over.

Invariant: no function here keeps state of a model; the log is the process's only global.
"""

import ctypes
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as llama

from rayhost.engine.base import Batch, LoadError
from rayhost.ipc.messages import Load, Task

_LOG_ERROR = 4
_LOG_CONTINUES = 5
_VALUE_BYTES = 256  # of a metadata value; what is asked for here is short
_TASKS: dict[str, Task] = {
    str(llama.LLAMA_POOLING_TYPE_MEAN): "embed",
    str(llama.LLAMA_POOLING_TYPE_CLS): "embed",
    str(llama.LLAMA_POOLING_TYPE_LAST): "embed",
    str(llama.LLAMA_POOLING_TYPE_RANK): "rank",
}


class Log:
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

    def begin(self) -> None:
        """Listen to llama.cpp, and forget what it said before."""
        llama.llama_log_set(self.callback, ctypes.c_void_p(0))
        self.errors.clear()

    def reason(self, fallback: str) -> str:
        """Return the first complaint since `begin`: later ones only repeat the failure."""
        return self.errors[0] if self.errors else fallback


log = Log()


def open_model(load: Load) -> Any:
    """Return the mapped model file. Raises LoadError with llama.cpp's reason."""
    log.begin()
    llama.llama_backend_init()
    options = llama.llama_model_default_params()
    options.n_gpu_layers = 0
    # llama.cpp's AMX kernels crash on Q4_1 prefill (and have given garbage: ggml-org/llama.cpp
    # pull 16315, issue 20824). `make setup` builds without them; a foreign build may have them,
    # and without the extra buffer types it is slower but right.
    options.use_extra_bufts = b"AMX_INT8 = 1" not in llama.llama_print_system_info()
    model = llama.llama_model_load_from_file(load.path.encode(), options)
    if not model:
        raise LoadError(log.reason("llama.cpp could not read the model file"))
    return model


def metadata(model: Any, key: str) -> str | None:
    """Return a value of the file's metadata as text, None where it has none."""
    buffer = ctypes.create_string_buffer(_VALUE_BYTES)
    size = llama.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return buffer.value.decode(errors="replace") if size >= 0 else None


def architecture_of(model: Any) -> str:
    """Return the name of the model's architecture."""
    return metadata(model, "general.architecture") or "unknown"


def task_of(model: Any) -> Task:
    """Return what the model is for: one that says how tokens become one vector embeds or ranks."""
    pooling = metadata(model, f"{architecture_of(model)}.pooling_type")
    return _TASKS.get(pooling or "", "generate")


def quantization_of(model: Any) -> str:
    """Return llama.cpp's name for the precision of the weights."""
    name = (llama.llama_ftype_name(llama.llama_model_ftype(model)) or b"unknown").decode()
    return name.removeprefix("(guessed)").strip()  # of a file that does not say it


class NativeBatch:
    """A llama_batch over a batch's own arrays: filling those fills it."""

    def __init__(self, batch: Batch) -> None:
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
        self._batch = batch
        self._raw = raw

    def decode(self, context: Any) -> int:
        """Run it, and return llama_decode's status."""
        self._raw.n_tokens = self._batch.size
        status: int = llama.llama_decode(context, self._raw)
        return status
