"""Sizes of memory as people write them."""

import pytest

from rayhost.errors import RayhostError
from rayhost.sizes import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1GiB", 1 << 30),
        ("768 MiB", 768 << 20),
        ("1.5g", 3 << 29),
        ("512M", 512 << 20),
        ("64kB", 64 << 10),
        ("512B", 512),
        ("1073741824", 1 << 30),
        ("1048576", 1 << 20),
        ("1048576GiB", 1 << 50),
    ],
)
def test_they_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "many", "1TiB", "-1", "1 2", "inf", "nan", "1e9", "x" * 500])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(RayhostError, match="is no size; expected one such as 1GiB") as caught:
        parse_size(text)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("text", ["9" * 400 + "GiB", "9" * 400, "9" * 300 + ".5k", "1048577GiB"])
def test_what_no_machine_has_is_refused_whatever_its_digits(text: str) -> None:
    with pytest.raises(RayhostError, match="is too large; expected at most 1048576GiB") as caught:
        parse_size(text)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize(
    ("text", "meant"),
    [("512", "512MiB"), (" 512 ", "512MiB"), ("0.5", "0.5MiB"), ("1048575", "1048575MiB")],
)
def test_a_small_number_without_a_unit_is_refused_with_what_was_meant(
    text: str, meant: str
) -> None:
    with pytest.raises(RayhostError, match=f"has no unit and would be bytes; try {meant}$"):
        parse_size(text)
