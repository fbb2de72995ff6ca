"""Headers of GGUF files byte by byte, for what no honest writer would write."""

import struct


def string(text: str | bytes) -> bytes:
    """Return a text as the format has it."""
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def header(*entries: bytes, tensors: int = 0, version: int = 3) -> bytes:
    """Return the file's begin with its metadata; the tensors that it counts are to follow."""
    return struct.pack("<4sIQQ", b"GGUF", version, tensors, len(entries)) + b"".join(entries)


def entry(key: str, kind: int, value: bytes) -> bytes:
    """Return a metadata entry of a type, by the format's number."""
    return string(key) + struct.pack("<I", kind) + value


LLAMA = entry("general.architecture", 8, string("llama"))


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    """Return the entry of a tensor."""
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return string(name) + dimensions + struct.pack("<IQ", kind, offset)
