"""The command line's front door: `rayhost check`, and how any verb's failure ends the process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from rayhost import __version__, profile
from rayhost.cli.main import Verbs, app
from rayhost.errors import RayhostError

run = CliRunner().invoke


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.json"
    path.write_text('{"models": [{"name": "a"}, {"name": "b"}]}')
    return path


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.json"
    path.write_text('{"models": [{"name": "a", "contxt": 1, "batch": 0}]}')
    return path


def test_a_good_profile_is_said_to_be_ok(good: Path) -> None:
    result = run(app, ["check", str(good)])
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{good}: ok (2 models: a, b)\n"


def test_a_bad_profile_exits_1_with_every_mistake_on_stderr(bad: Path) -> None:
    result = run(app, ["check", str(bad)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        f'{bad}: models[0].contxt: unknown key; did you mean "context"?',
        f'{bad}: models[0].batch: 0 is not valid; expected an integer from 1 to 8192 or "auto"',
    ]


def test_a_bad_profile_does_not_hide_the_others(good: Path, bad: Path) -> None:
    result = run(app, ["check", str(bad), str(good), str(good.parent / "none.json")])
    assert result.exit_code == 1
    assert result.stdout == f"{good}: ok (2 models: a, b)\n"
    assert result.stderr.endswith("none.json: no such file\n")


def test_check_without_a_file_is_a_usage_error() -> None:
    result = run(app, ["check"])
    assert result.exit_code == 2
    assert "name at least one profile" in result.stderr


def test_check_prints_the_schema() -> None:
    result = run(app, ["check", "--schema"])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == profile.json_schema()


def failing(error: BaseException) -> typer.Typer:
    """An app like ours whose one verb raises."""
    with_verb = typer.Typer(cls=Verbs)

    @with_verb.callback()
    def options() -> None:
        """Make the next command a verb rather than the whole app."""

    @with_verb.command()
    def verb() -> None:
        raise error

    return with_verb


def test_a_rayhost_error_is_its_lines_on_stderr_and_exit_1() -> None:
    result = run(failing(RayhostError("first\nsecond")), ["verb"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "rayhost: first\nrayhost: second\n"


def test_an_interrupt_exits_130_without_a_traceback() -> None:
    result = run(failing(KeyboardInterrupt()), ["verb"])
    assert (result.exit_code, result.output) == (130, "")


def test_any_other_exception_is_a_bug_and_stays_one() -> None:
    result = run(failing(ZeroDivisionError()), ["verb"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_the_module_runs_as_the_command() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "rayhost", "--version"], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (0, f"rayhost {__version__}\n")
