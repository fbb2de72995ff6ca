"""`rayhost chat` as a program: through a pipe, and in a terminal with its keys."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayhost.errors import ContextLengthExceeded
from rayhost.front.request import ChatPrompt, GenerateRequest
from tests.cli.verbs import environment, fake_host, run
from tests.http.fake_front import FakeFront, card
from tests.support.terminal import Terminal


@pytest.fixture
def front() -> FakeFront:
    return FakeFront()


@pytest.fixture
def url(front: FakeFront) -> Iterator[str]:
    with fake_host(front) as url:
        yield url


@pytest.fixture
def terminal(url: str, tmp_path: Path) -> Iterator[Terminal]:
    argv = [sys.executable, "-m", "rayhost", "chat", "--url", url]
    with Terminal(argv, environment(tmp_path)) as one:
        one.expect("> ")
        yield one


def said(request: GenerateRequest) -> list[str]:
    assert isinstance(request.prompt, ChatPrompt)
    return [one["content"] for one in request.prompt.messages]


def test_a_pipe_is_a_conversation_of_its_lines(front: FakeFront, url: str, tmp_path: Path) -> None:
    script = "/system Be brief.\nWhere?\n\nAnd then?\n/retry\n/exit\nnever\n"
    result = run("chat", "--url", url, runtime=tmp_path, stdin=script)
    assert (result.returncode, result.stdout) == (0, "Paris is nice\n" * 3)
    assert result.stderr == "system message set\n"
    assert [said(one) for one in front.requests] == [
        ["Be brief.", "Where?"],
        ["Be brief.", "Where?", "Paris is nice", "And then?"],
        ["Be brief.", "Where?", "Paris is nice", "And then?"],
    ]


def test_the_end_of_a_pipe_ends_it_without_a_last_newline(
    front: FakeFront, url: str, tmp_path: Path
) -> None:
    result = run("chat", "small", "--url", url, runtime=tmp_path, stdin="Where?")
    assert (result.returncode, result.stdout, result.stderr) == (0, "Paris is nice\n", "")
    assert front.request.model == "small"


def test_a_failure_in_a_pipe_ends_it_with_a_status(
    front: FakeFront, url: str, tmp_path: Path
) -> None:
    front.refusals = [ContextLengthExceeded("too long")]
    result = run("chat", "--url", url, runtime=tmp_path, stdin="Where?\nAnd?\n")
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "rayhost: too long\n")
    assert len(front.requests) == 1


def test_ctrl_d_leaves(terminal: Terminal) -> None:
    terminal.type("\x04")
    assert terminal.exit_status() == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(terminal: Terminal, front: FakeFront) -> None:
    front.hold_run = True
    terminal.type("Where?\n")
    terminal.expect("Paris is nice")
    terminal.process.send_signal(signal.SIGINT)
    terminal.expect("(stopped)")
    assert front.run.closed.wait()
    front.hold_run = False
    terminal.expect("> ")
    terminal.type("And?\n")
    terminal.expect("Paris is nice")
    terminal.expect("> ")
    assert said(front.requests[1]) == ["Where?", "Paris is nice", "And?"]
    terminal.interrupt(until="(Ctrl-D leaves)")
    terminal.expect("> ")
    terminal.type("/exit\n")
    assert terminal.exit_status() == 0


def test_a_pasted_text_is_one_message(terminal: Terminal, front: FakeFront) -> None:
    terminal.type("\x1b[200~one\ntwo\nthree\x1b[201~")
    terminal.type("\n")
    terminal.expect("Paris is nice")
    assert said(front.request) == ["one\ntwo\nthree"]


def test_a_failure_in_a_terminal_is_told_and_the_question_can_be_asked_again(
    terminal: Terminal, front: FakeFront
) -> None:
    front.refusals = [ContextLengthExceeded("too long")]
    terminal.type("Where?\n")
    terminal.expect("too long")
    terminal.expect("> ")
    terminal.type("/retry\n")
    terminal.expect("Paris is nice")
    assert [said(one) for one in front.requests] == [["Where?"], ["Where?"]]


def test_an_answer_gives_the_terminal_no_orders(terminal: Terminal, front: FakeFront) -> None:
    front.pieces = ("\x1b]0;owned\x07", "still\there")
    terminal.type("Where?\n")
    terminal.expect("]0;ownedstill")


def test_models_are_listed_and_changed(terminal: Terminal, front: FakeFront) -> None:
    front.models = [*front.models, card("other")]
    terminal.type("/model other\n")
    terminal.expect("asking other")
    terminal.expect("> ")
    terminal.type("Where?\n")
    terminal.expect("Paris is nice")
    assert front.request.model == "other"
