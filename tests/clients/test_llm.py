"""The public `llm` command line against a real host, as its own documentation configures one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.conftest import CHAT_MODEL, QUESTION, Keyed
from tests.support.host import Host

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]

Llm = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def llm(host: Host, keyed: Keyed, tmp_path: Path) -> Llm:
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: ray\n  model_name: {CHAT_MODEL}\n  api_base: {host.url}/v1\n"
        f"- model_id: keyed\n  model_name: tiny\n  api_base: {keyed.url}/v1\n"
        "  api_key_name: rayhost\n"
    )

    def run(*arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "llm", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={**os.environ, "LLM_USER_PATH": str(tmp_path)},
        )

    return run


def test_it_answers_streamed_and_not(llm: Llm) -> None:
    options = ("-m", "ray", "-o", "temperature", "0", "-o", "max_tokens", "64")
    streamed = llm(*options, QUESTION)
    whole = llm(*options, "--no-stream", QUESTION)
    assert (streamed.returncode, streamed.stderr) == (0, "")
    assert "Paris" in streamed.stdout
    assert whole.stdout == streamed.stdout


def test_it_continues_a_conversation(llm: Llm) -> None:
    options = ("-o", "temperature", "0", "-o", "max_tokens", "32")
    assert llm("-m", "ray", *options, "My name is Ada.").returncode == 0
    more = llm("-c", *options, "What is my name?")
    assert (more.returncode, more.stderr) == (0, "")
    latest, first = json.loads(llm("logs", "--json", "-n", "2").stdout)[::-1]
    # What was said before is part of the prompt.
    assert latest["input_tokens"] > first["input_tokens"] + first["output_tokens"]


def test_a_key_is_sent_and_a_wrong_one_is_told(llm: Llm, keyed: Keyed) -> None:
    options = ("-m", "keyed", "-o", "max_tokens", "4", "hi")
    refused = llm("--key", "rh-nobody", *options)
    assert refused.returncode == 1
    assert "Incorrect API key provided." in refused.stderr
    assert llm("keys", "set", "rayhost", "--value", keyed.key).returncode == 0
    assert llm(*options).returncode == 0
