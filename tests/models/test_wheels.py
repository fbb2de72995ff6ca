"""Which GGUF is taken out of wheels, and that strangers' wheels are only ever read."""

import zipfile
from pathlib import Path

import pytest

from rayhost.errors import RayhostError
from rayhost.models.sources import PypiSource, parse
from rayhost.models.wheels import choose, in_order, join
from tests.support.wheel import write_wheel

ONE = PypiSource(("one==1",))


def names(source: PypiSource, *wheels: Path) -> list[str]:
    return [piece.member.filename for piece in choose(source, wheels)]


def test_the_only_gguf_is_chosen(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, "one", "1", {"one/__init__.py": b"", "one/m.gguf": b"GGUF"})
    assert names(ONE, wheel) == ["one/m.gguf"]


def test_of_several_ggufs_one_must_be_named(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, "one", "1", {"one/b.gguf": b"", "one/a.gguf": b""})
    with pytest.raises(RayhostError, match=r"several GGUF files.*: one/a\.gguf, one/b\.gguf"):
        choose(ONE, [wheel])
    assert names(PypiSource(("one==1",), "one/b.gguf"), wheel) == ["one/b.gguf"]
    with pytest.raises(RayhostError, match=r"no such file in the wheel, it has one/a\.gguf"):
        choose(PypiSource(("one==1",), "one/c.gguf"), [wheel])


def test_parts_are_joined_by_their_numbers_over_wheels(tmp_path: Path) -> None:
    base = write_wheel(tmp_path, "base", "1", {"base/README": b""})
    tail = write_wheel(tmp_path, "p1", "1", {"p1/m.gguf.part01": b"tail"})
    head = write_wheel(tmp_path, "p2", "1", {"p2/m.gguf.part00": b"head-"})
    pieces = choose(ONE, [base, tail, head])
    seen: list[int] = []
    join(ONE, pieces, tmp_path / "joined", seen.append)
    assert (tmp_path / "joined").read_bytes() == b"head-tail"
    assert seen == [5, 9]


@pytest.mark.parametrize(
    "members",
    [
        {"x.txt": b""},
        {"m.gguf.part0": b"", "m.gguf.part2": b""},
        {"m.gguf.part2": b"", "m.gguf.part3": b""},
        {"m.gguf.part0": b"", "n.gguf.part1": b""},
        {"a/m.gguf.part0": b"", "b/m.gguf.part0": b""},
        {"../../evil.gguf": b"GGUF"},
        {"/etc/evil.gguf": b"GGUF"},
    ],
)
def test_nothing_is_taken_where_it_is_not_clear_what(
    tmp_path: Path, members: dict[str, bytes]
) -> None:
    with pytest.raises(RayhostError, match="has no GGUF file, nor all parts of one"):
        choose(ONE, [write_wheel(tmp_path, "one", "1", members)])


def test_a_path_in_a_part_is_never_a_path_on_disk(tmp_path: Path) -> None:
    inside = tmp_path / "a" / "b"
    wheel = write_wheel(inside, "one", "1", {"../../evil.gguf.part0": b"x"})
    join(ONE, choose(ONE, [wheel]), inside / "joined", lambda done: None)
    assert (inside / "joined").read_bytes() == b"x"
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "joined",
        wheel.name,
    ]


@pytest.mark.parametrize("at", [0.3, 0.5, 0.7])
def test_a_damaged_wheel_is_named(tmp_path: Path, at: float) -> None:
    wheel = write_wheel(tmp_path, "one", "1", {"one/m.gguf": bytes(range(256)) * 4000})
    raw = bytearray(wheel.read_bytes())
    with zipfile.ZipFile(wheel) as archive:
        packed = archive.getinfo("one/m.gguf").compress_size
    for offset in range(8):
        raw[int(packed * at) + offset] ^= 0xFF
    wheel.write_bytes(raw)
    with pytest.raises(RayhostError, match=rf"{wheel.name} is damaged"):
        join(ONE, choose(ONE, [wheel]), tmp_path / "joined", lambda done: None)


def test_a_download_that_is_no_zip_is_named(tmp_path: Path) -> None:
    wheel = tmp_path / "one-1-py3-none-any.whl"
    wheel.write_bytes(b"<html>")
    with pytest.raises(RayhostError, match="is not a wheel"):
        choose(ONE, [wheel])


def test_wheels_come_in_the_order_of_the_source(tmp_path: Path) -> None:
    second = write_wheel(tmp_path, "b.two", "1", {})
    first = write_wheel(tmp_path, "Z-one", "1", {})
    source = parse("pypi:z_one==1,B-Two==1")
    assert isinstance(source, PypiSource)
    assert in_order(source, tmp_path) == [first, second]
    with pytest.raises(RayhostError, match="pip brought b-two, z-one"):
        in_order(ONE, tmp_path)
