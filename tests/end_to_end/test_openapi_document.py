"""A real host held against its own OpenAPI document: what schemathesis makes of it, sent.

Data that the document allows and data that it does not, 2,000 cases in all, the same each time.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
import requests
import schemathesis
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from rayhost.http.openapi import document
from rayhost.models import catalog
from rayhost.models.store import Store, default_root
from tests.support.api_document import check_answer, strict
from tests.support.host import Host, started, tiny, write_profile

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]

Sent = Case[Any]
Operation = APIOperation[Any, Any, Any, Any]

CASES = 2_000
SHARE_OF_POSTS = 0.9
ANSWER_S = 30.0  # far beyond what the longest answer here takes: over it, something hangs
CONTEXT = 128  # tokens: bounds what a case can cost, whatever it asks for
MODELS = {"/v1/embeddings": "vectors", "/v1/rerank": "vectors"}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@pytest.fixture(scope="module")
def host(models: Path, store: Path) -> Iterator[Host]:
    entry = catalog.BY_NAME["all-minilm-l6-v2"]
    minilm = Store(default_root()).pull(entry.name, entry.source, entry.sha256).path
    served = [tiny(context=CONTEXT), tiny("vectors", str(minilm), context=CONTEXT)]
    profile = write_profile(models / "documented.json", served)
    with started(profile, store) as running:
        yield running


def tame(case: Sent) -> None:
    """Make of what would be refused for a reason of its own, or take its time, what is answered."""
    timeout = str(case.headers.get("X-Rayhost-Timeout-Ms", ""))
    if timeout.isdigit() and 0 < int(timeout) < 60_000:
        case.headers["X-Rayhost-Timeout-Ms"] = "60000"
    body: Any = case.body
    if not isinstance(body, dict):
        return
    if isinstance(body.get("model", ""), str):
        body["model"] = MODELS.get(case.operation.path, "tiny")
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        if isinstance(body.get(name), int) and body[name] > 0:
            body[name] = 4
    if case.meta is None or case.meta.generation.mode.is_negative:
        return
    for name, value in body.items():
        if isinstance(value, float) and value.is_integer():  # to JSON Schema an integer
            body[name] = int(value)
    if isinstance(body.get("stream_options"), dict):
        body["stream"] = True
    if case.operation.path in ("/v1/completions", "/tokenize"):
        for name in ("prompt", "content"):
            if not isinstance(body.get(name, "x"), str) or body.get(name) == "":
                body[name] = "x"
    if case.operation.path == "/tokenize":
        body.setdefault("content", "x")
    if isinstance(body.get("tokens"), list):
        body["tokens"] = [int(token) % 200 for token in body["tokens"]]
    for message in body.get("messages", ()):
        if message.get("content") in (None, "", []):
            message["content"] = "x"


class Run:
    """Sends cases and counts what came of them."""

    def __init__(self, url: str) -> None:
        self.session = requests.Session()
        self.url = url
        self.document = document()
        self.strict = strict(self.document)
        self.sent = 0
        self.answered = 0

    def send(self, operation: Operation, mode: GenerationMode, many: int) -> None:
        """Send at most so many cases of an operation; fail at the first that is not as it says."""

        @hypothesis.settings(
            max_examples=many,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def each(case: Sent) -> None:
            tame(case)
            response = case.call(self.url, self.session, timeout=ANSWER_S)
            self.sent += 1
            self.answered += response.status_code == 200
            case.validate_response(response, checks=CHECKS)
            check_answer(
                self.strict,
                *(operation.method, operation.path, response.status_code),
                *(response.headers["content-type"][0], response.content),
            )

        each()


def test_2000_cases_are_answered_as_documented(host: Host) -> None:
    run = Run(host.url)
    schema = schemathesis.openapi.from_dict(run.document)
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    posts = [one for one in operations if one.method == "post"]
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    for one in operations:
        if one not in posts:
            for mode in modes:
                run.send(one, mode, int(CASES * (1 - SHARE_OF_POSTS) / len(operations)))
    before, answered = run.sent, run.answered
    for number, one in enumerate(posts):
        for mode in modes:
            left = CASES - run.sent
            run.send(one, mode, -(-left // (2 * (len(posts) - number) - (mode is modes[1]))))
    assert run.sent >= CASES
    assert run.answered - answered > (run.sent - before) / 10, "too few cases got to a model"
    assert httpx.get(f"{host.url}/health").status_code == 200


def test_the_host_serves_the_document_that_was_tested(host: Host) -> None:
    served: dict[str, Any] = httpx.get(f"{host.url}/openapi.json").json()
    assert served == json.loads(json.dumps(document()))
