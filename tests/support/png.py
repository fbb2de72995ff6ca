"""Reads the pixels of a browser's screenshot: 8-bit RGB or RGBA, not interlaced."""

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CHANNELS = {2: 3, 6: 4}


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Return (height, width, 3) pixels."""
    raw = path.read_bytes()
    if raw[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError(f"{path} is no PNG")
    at, packed, header = 8, b"", b""
    while at < len(raw):
        size, kind = struct.unpack(">I4s", raw[at : at + 8])
        body = raw[at + 8 : at + 8 + size]
        header = body if kind == b"IHDR" else header
        packed += body if kind == b"IDAT" else b""
        at += size + 12
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if depth != 8 or colour not in CHANNELS or interlaced:
        raise ValueError(f"{path}: depth {depth}, colour {colour}, interlaced {interlaced}")
    step = CHANNELS[colour]
    rows = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, width * step + 1)
    pixels = np.zeros((height, width * step), np.uint8)
    above = np.zeros(width * step, np.uint8)
    for number, row in enumerate(rows):
        above = pixels[number] = _unfilter(int(row[0]), row[1:], above, step)
    return pixels.reshape(height, width, step)[:, :, :3]


def _unfilter(
    method: int, row: NDArray[np.uint8], above: NDArray[np.uint8], step: int
) -> NDArray[np.uint8]:
    if method == 0:
        return row
    if method == 1:  # the sum of everything to the left, in each channel
        left: NDArray[np.uint8] = (
            row.reshape(-1, step).cumsum(axis=0, dtype=np.uint32).astype(np.uint8).reshape(-1)
        )
        return left
    if method == 2:
        return row + above
    done, up = row.astype(int).tolist(), above.astype(int).tolist()
    for at, value in enumerate(done):
        left_of = done[at - step] if at >= step else 0
        corner = up[at - step] if at >= step else 0
        guess = (left_of + up[at]) // 2 if method == 3 else _paeth(left_of, up[at], corner)
        done[at] = (value + guess) & 255
    return np.asarray(done, np.uint8)


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((left, up, corner), key=lambda value: abs(guess - value))
