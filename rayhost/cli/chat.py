"""`rayhost chat`: a conversation with the running host, in a terminal or through a pipe.

Answers go to stdout, everything else to stderr. From a pipe each line is a message or a command,
and the first failure ends it; in a terminal only `/exit` and Ctrl-D do.
"""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayhost.cli import asking
from rayhost.errors import RayhostError

if TYPE_CHECKING:
    from rayhost.cli.client import Client
    from rayhost.cli.conversation import Conversation


def chat(
    model: Annotated[
        str | None, typer.Argument(help="Without it, the first that can chat.")
    ] = None,
    *,
    system: asking.System = None,
    max_tokens: asking.MaxTokens = None,
    temperature: asking.Temperature = None,
    url: asking.Url = None,
    key: asking.ApiKey = None,
) -> None:
    """Talk with a model; /help shows the commands."""
    from rayhost.cli.conversation import Conversation

    client = asking.connect(url, key)
    state = Conversation(asking.chosen(client, model), system or "")
    interactive = sys.stdin.isatty()
    session = _Session(client, state, asking.parameters(max_tokens, temperature), interactive)
    if interactive:
        _notice(f"{state.model} at {client.url}; /help shows the commands, Ctrl-D leaves")
        _prepare_editing()
    _converse(session, _typed if interactive else _piped)


class _Session:
    """One conversation and the client that carries it."""

    def __init__(
        self,
        client: "Client",
        state: "Conversation",
        parameters: dict[str, Any],
        interactive: bool,
    ) -> None:
        self._client = client
        self._state = state
        self._parameters = parameters
        self._interactive = interactive

    def take(self, line: str) -> bool:
        """Do what a line says; return whether to go on. Raises RayhostError."""
        from rayhost.cli.conversation import step

        wanted = step(line, self._state, self._served)
        if wanted.notice:
            _notice(wanted.notice)
        if wanted.question:
            self._ask(wanted.question)
        return not wanted.leave

    def failed(self, error: RayhostError) -> None:
        """Tell of a failure in a terminal, where the conversation goes on. Raises it elsewhere."""
        if not self._interactive:
            raise error
        _notice(str(error))

    def interrupted(self) -> None:
        """Take note of a Ctrl-C in a terminal. Raises KeyboardInterrupt elsewhere."""
        if not self._interactive:
            raise KeyboardInterrupt

    def _served(self) -> list[str]:
        return [one["id"] for one in self._client.models()]

    def _ask(self, question: str) -> None:
        messages = self._state.asking(question)
        said: list[str] = []
        stopped = False
        try:
            with self._client.chat(self._state.model, messages, **self._parameters) as answer:
                for text in answer:
                    said.append(text)
                    asking.write(text)
        except KeyboardInterrupt:
            self.interrupted()
            stopped = True
        finally:
            self._state.answered("".join(said))
            if said and not said[-1].endswith("\n"):
                asking.write("\n")
        if stopped:
            _notice("(stopped)")
        elif answer.finish_reason == "length":
            _notice("(cut: --max-tokens or the model's context is used up)")


def _converse(session: _Session, read: Callable[[], str]) -> None:
    """Take line after line to the end."""
    while True:
        try:
            if not session.take(read()):
                return
        except EOFError:
            return
        except KeyboardInterrupt:
            session.interrupted()
            _notice("\n(Ctrl-D leaves)")
        except RayhostError as error:
            session.failed(error)


def _prepare_editing() -> None:
    """Let `input` edit lines and know the earlier ones, where there is readline."""
    try:
        import readline
    except ImportError:
        return
    # A pasted text stays one message, whatever lines it has. Python turns this off.
    readline.parse_and_bind("set enable-bracketed-paste on")


def _typed() -> str:
    try:
        return input("> ")
    except EOFError:
        _notice("")  # the cursor is behind the prompt
        raise


def _piped() -> str:
    try:
        line = sys.stdin.readline()
    except UnicodeDecodeError as error:
        raise RayhostError(f"stdin is not UTF-8 text (byte {error.start})") from None
    if not line:
        raise EOFError
    return line


def _notice(text: str) -> None:
    typer.echo(text, err=True)
