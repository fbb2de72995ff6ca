"""`rayhost ask` against a real host: the answer that a schema asks for."""

import json
import subprocess
from pathlib import Path

import jsonschema
import pytest

from tests.clients.conftest import ABOUT, CHAT_MODEL, PERSON
from tests.support.host import Host, command, environment

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]


def test_the_answer_matches_the_schema(host: Host, tmp_path: Path) -> None:
    (tmp_path / "person.json").write_text(json.dumps(PERSON))
    schema = ("--json-schema", tmp_path / "person.json")
    run = subprocess.run(
        command("ask", "--url", host.url, "--model", CHAT_MODEL, *schema, "--temperature", "0"),
        input=ABOUT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment(None),
    )
    assert run.returncode == 0, run.stderr
    jsonschema.validate(json.loads(run.stdout), PERSON)
