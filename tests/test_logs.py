"""Log lines, as a process of its own writes them: the set-up is global and for good."""

import json
import os
import subprocess
import sys
from typing import Any, Literal

import pytest

SPEAK = """
import logging, sys, structlog
from rayhost import logs
logs.configure(sys.argv[1], model="tiny")
log = structlog.get_logger("rayhost.test")
log.info("request", tokens=3, name="na\\u00efve", odd=object)
log.debug("too fine")
logging.getLogger("uvicorn.error").warning("theirs %s", 7)
logging.getLogger("uvicorn.error").info("too fine, too")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("ours failed")
    logging.getLogger("asyncio").exception("theirs failed")
"""

SPEAK_ON = """
import logging, sys, structlog
from rayhost import logs
logs.configure("json")
for n in range(1000):
    structlog.get_logger().error("nobody hears", n=n)
print("still here")
"""


def speak(log_format: Literal["json", "console"]) -> list[str]:
    run = subprocess.run(
        [sys.executable, "-c", SPEAK, log_format], capture_output=True, text=True, check=True
    )
    assert run.stdout == ""
    return run.stderr.splitlines()


def test_json_is_one_object_a_line_for_our_own_and_for_libraries_alike() -> None:
    lines: list[dict[str, Any]] = [json.loads(line) for line in speak("json")]
    assert [line["event"] for line in lines] == [
        "request",
        "theirs 7",
        "ours failed",
        "theirs failed",
    ]
    assert [line["level"] for line in lines] == ["info", "warning", "error", "error"]
    for line in lines:
        assert line["timestamp"].endswith("Z")
        assert line["model"] == "tiny"
    assert (lines[0]["tokens"], lines[0]["name"]) == (3, "naïve")
    assert lines[0]["odd"] == "<class 'object'>"  # no value can make a line fail
    for line in lines[2:]:
        assert "ZeroDivisionError: division by zero" in line["exception"]


def test_console_is_for_people() -> None:
    lines = speak("console")
    assert "request" in lines[0]
    assert "tokens=3" in lines[0]
    assert "theirs 7" in lines[1]
    assert any("ZeroDivisionError" in line for line in lines)
    assert not any("\x1b" in line for line in lines), "colours belong on a terminal"


@pytest.mark.parametrize("lost", ["full disk", "pipe that nobody reads"])
def test_a_log_that_cannot_be_written_stops_nobody(lost: str) -> None:
    if lost == "full disk":
        stderr = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, stderr = os.pipe()
        os.close(reader)
    try:
        run = subprocess.run(
            [sys.executable, "-c", SPEAK_ON],
            check=True,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    finally:
        os.close(stderr)
    assert run.stdout == "still here\n"
