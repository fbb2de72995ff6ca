"""Preload prompts: as they are, or from files beside the profile."""

from pathlib import Path

import pytest

from rayhost.cli.preload import MAX_BYTES, text, texts
from rayhost.errors import RayhostError


def test_a_file_is_read_and_anything_else_is_the_text_itself(tmp_path: Path) -> None:
    (tmp_path / "system.txt").write_text("You are a café.\n", encoding="utf-8")
    given = ("Be brief.", "file:system.txt", f"file:{tmp_path}/system.txt")
    assert texts(given, tmp_path) == ("Be brief.", "You are a café.\n", "You are a café.\n")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (None, "cannot be read"),
        (b"", "has 0 bytes"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"a" * (MAX_BYTES + 1), "expected 1 to 1048576"),
    ],
)
def test_a_file_without_a_text_is_named(tmp_path: Path, raw: bytes | None, reason: str) -> None:
    if raw is not None:
        (tmp_path / "system.txt").write_bytes(raw)
    with pytest.raises(RayhostError, match=rf"system\.txt: .*{reason}"):
        texts(("file:system.txt",), tmp_path)


def test_a_message_names_the_setting(tmp_path: Path) -> None:
    assert text("chat_template", "{{ messages }}", tmp_path) == "{{ messages }}"
    with pytest.raises(RayhostError, match=r"^chat_template .*t\.jinja: cannot be read"):
        text("chat_template", "file:t.jinja", tmp_path)
