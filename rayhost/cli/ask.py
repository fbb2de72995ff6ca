"""`rayhost ask`: one question to the running host, the answer and nothing else on stdout."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayhost.cli import asking
from rayhost.errors import RayhostError

if TYPE_CHECKING:
    from rayhost.cli.client import Answer


def ask(
    question: Annotated[
        str | None, typer.Argument(help="What to ask; what comes through a pipe goes before it.")
    ] = None,
    *,
    model: Annotated[str | None, typer.Option(help="Without it, the first that can chat.")] = None,
    system: asking.System = None,
    max_tokens: asking.MaxTokens = None,
    temperature: asking.Temperature = None,
    json_schema: Annotated[
        Path | None, typer.Option(help="File with the JSON Schema that the answer must match.")
    ] = None,
    url: asking.Url = None,
    key: asking.ApiKey = None,
) -> None:
    """Ask one question and print the answer as it comes."""
    # A text before its question: the next question about the same text finds it computed.
    prompt = "\n\n".join(part for part in (asking.piped_text().strip(), question) if part)
    if not prompt:
        raise typer.BadParameter("give a question, or a text on stdin", param_hint="QUESTION")
    parameters = asking.parameters(max_tokens, temperature)
    if json_schema is not None:
        parameters["response_format"] = _format(json_schema)
    messages = [{"role": "user", "content": prompt}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    client = asking.connect(url, key)
    with client.chat(asking.chosen(client, model), messages, **parameters) as answer:
        _print(answer)
    if answer.finish_reason == "length":
        cut = "the answer was cut: it reached --max-tokens or the end of the model's context"
        if json_schema is not None:
            raise RayhostError(f"{cut}, so it is no whole JSON")
        typer.echo(f"rayhost: {cut}", err=True)


def _print(answer: "Answer") -> None:
    last = ""
    try:
        for last in answer:
            asking.write(last)
    finally:
        if last and not last.endswith("\n"):
            asking.write("\n")


def _format(path: Path) -> dict[str, Any]:
    """Return the response format of a file with a JSON Schema. Raises RayhostError."""
    import json

    try:
        schema = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise RayhostError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise RayhostError(f"{path}: not JSON: {error}") from None
    except RecursionError:
        raise RayhostError(f"{path}: nested too deeply") from None
    named = {"name": "answer", "strict": True, "schema": schema}
    return {"type": "json_schema", "json_schema": named}
