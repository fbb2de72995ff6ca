"""What a line of `rayhost chat` leads to."""

import pytest

from rayhost.cli.conversation import HELP, Conversation, Step, step


def served() -> list[str]:
    return ["small", "large"]


def test_a_conversation_is_sent_whole_behind_its_system_message() -> None:
    state = Conversation("small", system="Be brief.")
    assert state.asking("one")[1:] == [{"role": "user", "content": "one"}]
    state.answered("1")
    assert state.asking("two") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "two"},
    ]


def test_a_question_without_an_answer_is_not_part_of_it_but_can_be_asked_again() -> None:
    state = Conversation("small")
    state.asking("one")
    state.answered("1")
    state.asking("one")
    state.answered("")
    assert len(state.turns) == 2
    assert step("/retry", state, served) == Step(question="one")
    assert len(state.turns) == 2


def test_a_retry_takes_the_last_answer_back() -> None:
    state = Conversation("small")
    assert step("/retry", state, served).question == ""
    for question in ("one", "two"):
        state.asking(question)
        state.answered("yes")
    assert step("/retry", state, served) == Step(question="two")
    assert [turn["content"] for turn in state.turns] == ["one", "yes"]


def test_clear_forgets_all_but_the_system_message() -> None:
    state = Conversation("small", system="Be brief.")
    state.asking("one")
    state.answered("1")
    step("/clear", state, served)
    assert (state.turns, state.system) == ([], "Be brief.")
    assert step("/retry", state, served).question == ""


def test_the_system_message_is_set_shown_and_removed() -> None:
    state = Conversation("small")
    assert step("/system", state, served).notice == "there is no system message"
    step("/system  You are\nkind. ", state, served)
    assert state.system == "You are\nkind."
    assert step("/system", state, served).notice == "system: You are\nkind."
    step("/system -", state, served)
    assert state.system == ""


def test_the_model_is_changed_to_one_that_is_served() -> None:
    state = Conversation("small")
    assert step("/model", state, served).notice == "* small\n  large"
    step("/model large", state, served)
    assert state.model == "large"
    assert "there is: small, large" in step("/model huge", state, served).notice
    assert state.model == "large"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("  hello \n", Step(question="hello")),
        ("one\ntwo", Step(question="one\ntwo")),
        ("/etc/passwd is what?", Step(question="/etc/passwd is what?")),
        ("//help", Step(question="/help")),
        ("", Step()),
        ("   ", Step()),
        ("/help", Step(HELP)),
        ("/exit", Step(leave=True)),
        ("/nonsense here", Step("there is no /nonsense; /help lists the commands")),
    ],
)
def test_a_line_is_a_question_or_a_command(line: str, expected: Step) -> None:
    assert step(line, Conversation("small"), served) == expected


def test_every_command_of_the_help_is_known() -> None:
    commands = [line.split()[0] for line in HELP.splitlines() if line.startswith("/")]
    assert len(commands) == 6
    for command in commands:
        assert "there is no" not in step(command, Conversation("small"), served).notice.replace(
            "there is no system message", ""
        )
