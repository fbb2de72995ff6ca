"""What the journal gets: a datagram a line, with fields that it can be searched by."""

import contextlib
import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayhost.journal import Handler, Journal


class Journald:
    """The other end."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.setblocking(False)

    def entry(self) -> dict[str, str]:
        """The next line's fields, as journald reads them."""
        raw, found = self.socket.recv(65536), {}
        while raw:
            head, _, raw = raw.partition(b"\n")
            name, equals, value = head.partition(b"=")
            if not equals:
                size = int.from_bytes(raw[:8], "little")
                value, raw = raw[8 : 8 + size], raw[9 + size :]
            found[name.decode()] = value.decode()
        return found


@pytest.fixture
def journal(journald: Journald) -> Iterator[Journal]:
    with contextlib.closing(Journal(journald.path)) as journal:
        yield journal


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    journald = Journald(tmp_path / "journal")
    yield journald
    journald.socket.close()


def test_each_thing_said_is_a_field(journald: Journald, journal: Journal) -> None:
    journal.error(
        event="worker lost", level="error", timestamp="now", model="tiny", reason="killed by x",
        restart_s=0.05, **{"odd-name": 1},
    )  # fmt: skip
    assert journald.entry() == {
        "MESSAGE": 'worker lost model=tiny reason="killed by x" restart_s=0.05 odd-name=1',
        "PRIORITY": "3",
        "SYSLOG_IDENTIFIER": "rayhost",
        "RAYHOST_EVENT": "worker lost",
        "RAYHOST_MODEL": "tiny",
        "RAYHOST_REASON": "killed by x",
        "RAYHOST_RESTART_S": "0.05",
        "RAYHOST_ODD_NAME": "1",
    }


def test_a_value_of_several_lines_forges_no_field(journald: Journald, journal: Journal) -> None:
    journal.info(event="said", text="one\nPRIORITY=0")
    entry = journald.entry()
    assert entry["RAYHOST_TEXT"] == "one\nPRIORITY=0"
    assert entry["PRIORITY"] == "6"


def test_a_library_is_heard_with_its_traceback(journald: Journald, journal: Journal) -> None:
    try:
        raise ValueError("no such thing")
    except ValueError:
        record = logging.LogRecord(
            "uvicorn.error", logging.ERROR, "", 0, "failed: %d", (7,), sys.exc_info()
        )
    Handler(journal).emit(record)
    entry = journald.entry()
    assert (entry["RAYHOST_EVENT"], entry["RAYHOST_LOGGER"]) == ("failed: 7", "uvicorn.error")
    assert "ValueError: no such thing" in entry["RAYHOST_EXCEPTION"]


def test_what_the_journal_does_not_take_is_on_stderr(
    journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.closing(Journal(str(tmp_path / "gone"))) as gone:
        gone.info(event="unheard", n=1)
    journal.info(event="long", text="x" * 10_000_000)
    unheard, long = capsys.readouterr().err.splitlines()
    assert unheard == "unheard n=1"
    assert long.startswith("long text=xxx")


def test_only_a_stderr_that_the_journal_reads_is_its() -> None:
    program = (
        "import os\nfrom rayhost.journal import is_ours\n"
        "about = os.fstat(2)\n"
        "ours = f'{about.st_dev}:{about.st_ino}'\n"
        "print(is_ours({'JOURNAL_STREAM': ours}), is_ours({'JOURNAL_STREAM': '1:2'}), is_ours({}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["True", "False", "False"]
