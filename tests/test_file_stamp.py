"""What is noticed of a change to a file."""

import os
from pathlib import Path

import pytest

from rayhost.file_stamp import stamp_of
from tests.support.waiting import eventually


@pytest.mark.parametrize("how", ["rewritten", "replaced", "grown"])
def test_another_content_has_another_stamp_even_with_the_same_size_and_time(
    tmp_path: Path, how: str
) -> None:
    path, other = tmp_path / "model", tmp_path / "other"
    path.write_bytes(b"weights")
    before, facts = stamp_of(str(path)), path.stat()
    assert before == stamp_of(str(path))
    match how:
        case "rewritten":
            path.write_bytes(b"WEIGHTS")
        case "replaced":
            other.write_bytes(b"WEIGHTS")
            other.rename(path)
        case _:
            path.write_bytes(b"more weights")

    def noticed() -> bool:  # once the clock that the kernel stamps files with has moved on
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        return stamp_of(str(path)) != before

    eventually(noticed, "another stamp")


def test_a_file_that_is_not_there_has_none(tmp_path: Path) -> None:
    assert stamp_of(str(tmp_path / "none")) is None
