"""The examples of docs/clients.md, run as they stand there, but for the host's address."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import node_client
from tests.support.host import Host

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
ADDRESS = "http://127.0.0.1:8080"
NOT_RUN = {"Open WebUI"}


def examples() -> Iterator[tuple[str, str, str]]:
    """Yield heading, language and text of each fenced example."""
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        heading = section.partition("\n")[0]
        for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", section, re.M | re.S):
            yield heading, language, text


def run(argv: list[str], host: Host, folder: Path) -> str:
    """Run a program where `rayhost` and `llm` are those of this interpreter; return its output."""
    own = folder / "bin"
    own.mkdir()
    for name in ("rayhost", "llm"):
        program = own / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {name} "$@"\n')
        program.chmod(0o755)
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{own}:{os.environ['PATH']}",
            "LLM_USER_PATH": str(folder),
            "PYTHONPATH": str(PAGE.parents[1]),
            "RAYHOST_URL": host.url,
        },
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("language", "text"),
    [pytest.param(language, text, id=heading) for heading, language, text in examples()],
)
def test_an_example_gives_the_answer(host: Host, tmp_path: Path, language: str, text: str) -> None:
    program = text.replace(ADDRESS, host.url)
    match language:
        case "sh":
            output = run(["bash", "-euo", "pipefail", "-c", program], host, tmp_path)
        case "python":
            output = run([sys.executable, "-c", program], host, tmp_path)
        case "js":
            folder = Path(shutil.copytree(node_client.installed(), tmp_path / "node"))
            (folder / "example.mjs").write_text(program)
            output = run(["node", str(folder / "example.mjs")], host, tmp_path)
        case _:
            raise AssertionError(f"an example in {language} cannot be run")
    assert "Paris" in output


def test_every_section_has_an_example_that_runs() -> None:
    headings = set(re.findall(r"^## (.*)$", PAGE.read_text(), re.MULTILINE))
    assert headings - NOT_RUN == {heading for heading, _, _ in examples()}
