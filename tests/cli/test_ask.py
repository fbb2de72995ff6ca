"""`rayhost ask` as a program: what it sends, what it prints, what it says of failures."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rayhost.errors import ContextLengthExceeded, QueueFull, WorkerLost
from rayhost.front.request import ChatPrompt, Finish
from tests.cli.admin import FakeControl, served
from tests.cli.verbs import fake_host, run
from tests.http.fake_front import FakeFront, card


@pytest.fixture
def front() -> FakeFront:
    return FakeFront()


@pytest.fixture
def url(front: FakeFront) -> Iterator[str]:
    with fake_host(front) as url:
        yield url


def messages(front: FakeFront) -> list[tuple[str, str]]:
    prompt = front.request.prompt
    assert isinstance(prompt, ChatPrompt)
    return [(one["role"], one["content"]) for one in prompt.messages]


def test_it_prints_the_answer_and_nothing_else(front: FakeFront, url: str, tmp_path: Path) -> None:
    result = run("ask", "Where?", "--url", url, runtime=tmp_path)
    assert (result.stdout, result.stderr, result.returncode) == ("Paris is nice\n", "", 0)
    assert messages(front) == [("user", "Where?")]
    assert front.request.model == "smollm2-135m"


def test_a_text_from_a_pipe_goes_before_the_question(
    front: FakeFront, url: str, tmp_path: Path
) -> None:
    result = run("ask", "Sum up.", "--url", url, runtime=tmp_path, stdin="A long text.\n")
    assert result.returncode == 0
    assert messages(front) == [("user", "A long text.\n\nSum up.")]


def test_a_pipe_alone_is_a_question(front: FakeFront, url: str, tmp_path: Path) -> None:
    assert run("ask", "--url", url, runtime=tmp_path, stdin="Where?").returncode == 0
    assert messages(front) == [("user", "Where?")]


def test_options_reach_the_host(front: FakeFront, url: str, tmp_path: Path) -> None:
    options = ("--model", "small", "--system", "Be brief.", "--max-tokens", "7")
    heat = ("--temperature", "0.5")
    result = run("ask", "Where?", *options, *heat, runtime=tmp_path, RAYHOST_URL=url)
    assert result.returncode == 0
    assert messages(front) == [("system", "Be brief."), ("user", "Where?")]
    request = front.request
    assert (request.model, request.max_tokens) == ("small", 7)
    assert request.sampling.temperature == 0.5


def test_the_first_model_that_is_ready_is_asked(front: FakeFront, url: str, tmp_path: Path) -> None:
    front.models = [card("slow", state="loading"), card("fast")]
    assert run("ask", "Where?", "--url", url, runtime=tmp_path).returncode == 0
    assert front.request.model == "fast"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (QueueFull("the queue is full", retry_after=3), "the queue is full (try again in 3 s)"),
        (ContextLengthExceeded("too long:\n 9 tokens"), "too long: 9 tokens"),
    ],
)
def test_a_refusal_is_one_line_and_a_status(
    front: FakeFront, url: str, tmp_path: Path, error: Exception, said: str
) -> None:
    front.submit_error = error
    result = run("ask", "Where?", "--url", url, runtime=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"rayhost: {said}\n"


def test_a_failure_in_mid_answer_leaves_what_came_and_a_status(
    front: FakeFront, url: str, tmp_path: Path
) -> None:
    front.run_error = WorkerLost("the worker died")
    result = run("ask", "Where?", "--url", url, runtime=tmp_path)
    assert (result.returncode, result.stdout) == (1, "Paris is nice\n")
    assert result.stderr == "rayhost: the worker died\n"


def test_a_cut_answer_is_told_on_stderr(front: FakeFront, url: str, tmp_path: Path) -> None:
    front.ending = Finish("length", 7, 3)
    result = run("ask", "Where?", "--url", url, runtime=tmp_path)
    assert (result.returncode, result.stdout) == (0, "Paris is nice\n")
    assert "was cut" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--url", "http://127.0.0.1:1"), "http://127.0.0.1:1: no host answers there"),
        (("--url", "127.0.0.1:8080"), "127.0.0.1:8080: expected a URL like http://"),
        (("--url", "http://[::1"), "http://[::1: not a URL: "),
        (("--url", "http://127.0.0.1:1", "--json-schema", "none.json"), "none.json: cannot be"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    result = run("ask", "Where?", *arguments, runtime=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"rayhost: {said}")


@pytest.mark.parametrize("schema", ["[" * 5_000, "[" * 100_000, "[" * 5_000 + "]" * 5_000])
def test_a_schema_that_is_nested_too_deeply_is_one_line(
    url: str, tmp_path: Path, schema: str
) -> None:
    path = tmp_path / "deep.json"
    path.write_text(schema)
    result = run("ask", "Where?", "--url", url, "--json-schema", str(path), runtime=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"rayhost: {path}: n")


def test_without_a_host_it_says_how_to_start_one(tmp_path: Path) -> None:
    result = run("ask", "Where?", "--url", "http://127.0.0.1:1", runtime=tmp_path)
    assert "`rayhost serve`" in result.stderr


def test_without_a_question_it_says_so(tmp_path: Path) -> None:
    result = run("ask", runtime=tmp_path)
    assert result.returncode == 2
    assert "give a question" in result.stderr


def test_stdin_that_is_no_text_is_refused(tmp_path: Path) -> None:
    result = run("ask", runtime=tmp_path, stdin=b"ab\xff")
    assert (result.returncode, result.stderr) == (1, "rayhost: stdin is not UTF-8 text (byte 2)\n")


def test_the_running_host_is_found(tmp_path: Path) -> None:
    with served(tmp_path / "8080.sock", FakeControl()):  # whose url nobody listens at
        one = run("ask", "Where?", runtime=tmp_path)
        with served(tmp_path / "8081.sock", FakeControl()):
            two = run("ask", "Where?", runtime=tmp_path)
    assert "http://127.0.0.1:8080: no host answers there" in one.stderr
    assert "several hosts run; choose one with --url: http://" in two.stderr


class Scripted(BaseHTTPRequestHandler):
    """Answers with what the test says, and remembers what was asked."""

    answer: tuple[int, str, bytes] = (200, "text/event-stream", b"")
    asked: ClassVar[list[tuple[str, str | None, Any]]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, self.headers["Authorization"], body))
        status, media, content = self.answer
        self.send_response(status)
        self.send_header("Content-Type", media)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def scripted() -> Iterator[tuple[type[Scripted], str]]:
    class Handler(Scripted):
        asked: ClassVar = []

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Handler, f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_schema_and_key_are_sent_and_an_address_may_end_in_v1(
    scripted: tuple[type[Scripted], str], tmp_path: Path
) -> None:
    handler, url = scripted
    handler.answer = (200, "text/event-stream", b"data: [DONE]\n\n")
    schema = {"type": "object"}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    result = run(
        *("ask", "x", "--url", url, "--model", "m"),
        *("--json-schema", str(tmp_path / "schema.json")),
        runtime=tmp_path,
        RAYHOST_API_KEY="rh-secret",
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    ((path, authorization, body),) = handler.asked
    assert (path, authorization) == ("/v1/chat/completions", "Bearer rh-secret")
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": schema},
    }


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, "text/event-stream", b"data: {}\n\n"), "the connection ended in mid-answer"),
        ((200, "text/event-stream", b"data: nope\n\n"), "an event is no JSON object: nope"),
        ((404, "text/html", b"<h1>Not\nhere</h1>"), "status 404: <h1>Not here</h1>"),
        ((401, "application/json", b'{"error": {"message": "No key."}}'), "RAYHOST_API_KEY"),
    ],
)
def test_a_host_that_is_none_is_one_line(
    scripted: tuple[type[Scripted], str],
    tmp_path: Path,
    answer: tuple[int, str, bytes],
    said: str,
) -> None:
    handler, url = scripted
    handler.answer = answer
    result = run("ask", "x", "--url", url, "--model", "m", runtime=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert said in line
