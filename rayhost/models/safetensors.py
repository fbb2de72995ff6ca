"""Reads a safetensors file: a length, a JSON header, then the tensors' bytes one after another.

Safe on hostile files: every offset is checked against the file before it is used, nothing is
executed, and only RayhostError comes out. Imports numpy: for `convert`'s process, not the front's.
"""

import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rayhost.errors import RayhostError

MAX_HEADER = 16 << 20  # bytes; real models have some ten thousand
_LENGTH = struct.Struct("<Q")
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1"}


class _Entry(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_tensors(path: Path) -> Mapping[str, NDArray[Any]]:
    """Return every tensor by name, as views of the mapped file.

    Raises RayhostError for a file that is not whole, and for a number format not known here.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        if size < _LENGTH.size:
            raise RayhostError(f"{path.name}: not a safetensors file: it has {size} bytes")
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    start = _LENGTH.size + int(_LENGTH.unpack_from(view)[0])
    if start > min(size, MAX_HEADER):
        raise RayhostError(f"{path.name}: not a safetensors file: its header ends at byte {start}")
    try:
        header = msgspec.json.decode(view[_LENGTH.size : start], type=dict[str, msgspec.Raw])
        header.pop("__metadata__", None)
        entries = {
            name: msgspec.json.decode(raw, type=_Entry, strict=True) for name, raw in header.items()
        }
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RayhostError(f"{path.name}: its header cannot be read: {error}") from error
    return {name: _tensor(path, view, start, name, entry) for name, entry in entries.items()}


def _tensor(path: Path, view: mmap.mmap, start: int, name: str, entry: _Entry) -> NDArray[Any]:
    if entry.dtype not in _TYPES:
        raise RayhostError(f"{path.name}: {name[:100]} is of the unknown type {entry.dtype[:20]!r}")
    dtype = np.dtype(_TYPES[entry.dtype])
    begin, end = entry.data_offsets
    count = 1
    for length in entry.shape:
        count *= length
    fits = min(entry.shape, default=0) >= 0 and 0 <= begin <= end <= len(view) - start
    if not fits or end - begin != count * dtype.itemsize:
        raise RayhostError(
            f"{path.name}: {name[:100]} of shape {list(entry.shape)} lies at bytes {begin} to "
            f"{end} of {len(view) - start}"
        )
    return np.frombuffer(view, dtype, count, start + begin).reshape(entry.shape)
