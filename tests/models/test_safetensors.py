"""Safetensors files: read as they are, and a stranger's file can do nothing but be refused."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhost.errors import RayhostError
from rayhost.models.safetensors import read_tensors
from tests.support import tiny_hf_bert as tiny


def written(path: Path, header: Any, data: bytes = b"") -> Path:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)
    return path


def entry(**changes: Any) -> dict[str, Any]:
    return {"t": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **changes}}


def test_every_tensor_is_read_as_it_was_written(tmp_path: Path) -> None:
    given = tiny.tensors()
    given["half"] = np.array([[1.5, -2]], np.float16)
    path = tmp_path / "m.safetensors"
    path.write_bytes(tiny.safetensors(given))
    found = read_tensors(path)
    assert found.keys() == given.keys()
    for name, values in given.items():
        assert found[name].dtype == values.dtype
        assert np.array_equal(found[name], values)


def test_a_tensor_may_be_a_number_or_empty(tmp_path: Path) -> None:
    header = {
        "one": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
        "none": {"dtype": "F32", "shape": [0, 5], "data_offsets": [4, 4]},
    }
    found = read_tensors(written(tmp_path / "m", header, struct.pack("<f", 2.5)))
    assert found["one"] == 2.5
    assert found["none"].shape == (0, 5)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"{", "header cannot be read"),
        (b"\xff\xfe", "header cannot be read"),
        ([], "header cannot be read"),
        ({"t": 5}, "header cannot be read"),
        (entry(dtype="F8"), "unknown type 'F8'"),
        (entry(shape=[2, 3]), r"shape \[2, 3\] lies at bytes 0 to 16 of 16"),
        (entry(shape=[-2, -2]), "lies at"),
        (entry(shape=[1 << 62, 1 << 62]), "lies at"),
        (entry(data_offsets=[4, 20]), "lies at bytes 4 to 20"),
        (entry(data_offsets=[-4, 12]), "lies at"),
        (entry(data_offsets=[16, 0]), "lies at"),
        (entry(data_offsets=[0]), "header cannot be read"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: Any, said: str) -> None:
    with pytest.raises(RayhostError, match=said):
        read_tensors(written(tmp_path / "m", header, bytes(16)))


@pytest.mark.parametrize("raw", [b"", b"1234567", struct.pack("<Q", 1 << 60), bytes(8)])
def test_what_is_no_such_file_is_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "m"
    path.write_bytes(raw)
    with pytest.raises(RayhostError, match=r"not a safetensors file|header cannot be read"):
        read_tensors(path)


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_any_bytes_are_tensors_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, head: bytes, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    try:
        read_tensors(written(path, head, data))
    except RayhostError:
        return
