"""How a model writes calls of tools, as a grammar: what it may write, and so what is a call.

Pure: functions and a choice in, the source of a constraint out. It takes time in proportion to the
schemas, which nobody looks into here: what is done to them is for the child that checks sources
(`engine.grammar_check`). The other end of a syntax, which finds the calls in the text, is
`http.tool_calls`. Used by `engine.codec`.

With `required`, or one function by name: calls and nothing else. With `auto`: text, or calls, or
text and then calls; from where a call begins, all is bound. Arguments match their schema always.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from rayhost.engine.base import PromptError
from rayhost.ipc.messages import Constraint, Rejected, Tools

MAX_CALLS = 16  # in one answer: a small model may find no end of them

Syntax = Literal["hermes", "mistral", "llama"]

# A rule in Lark; or one that ends in JSON, with the schema of that and how it is written.
Rule = str | tuple[str, Any, Mapping[str, Any]]


class _Form(NamedTuple):
    """What a syntax writes. Where there is an `end`, each call has a beginning and an end."""

    begin: str
    end: str
    arguments: str  # the key that they have
    open: str  # before the first call
    between: str
    close: str  # behind the last


_FORMS: Mapping[Syntax, _Form] = {
    "hermes": _Form("<tool_call>", "</tool_call>", "arguments", "\n", "\n", "\n"),
    "mistral": _Form("[TOOL_CALLS]", "", "arguments", "[", ", ", "]"),
    "llama": _Form("<|python_tag|>", "", "parameters", "", "; ", ""),
}
# Texts that may be one token, which then is no text to a grammar, and none of an answer either.
MARKS = tuple(mark for form in _FORMS.values() for mark in (form.begin, form.end) if mark)

# JSON as Python writes it, which models are trained on. White space where the model likes it would
# be more than small ones come to an end of.
_TRAINED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_COMPACT = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}


def grammar(
    tools: Tools, syntax: Syntax, tokens: Mapping[str, int], answer: Constraint | None = None
) -> str:
    """Return every answer that is allowed, as the source of a constraint of kind "calls".

    That is a `Rule` in JSON on each line. `tokens` has the ids of those `MARKS` that are one
    special token. An answer without a call must match `answer`. Raises PromptError for what cannot
    be combined.
    """
    form = _FORMS[syntax]
    begin = _mark(form.begin, tokens)
    if tools.choice == "required":
        starts = ["calls" if syntax == "llama" else f"{begin} calls"]
        rules: list[Rule] = []
    elif answer is None:
        starts = ["TEXT", "lead calls"]
        if form.begin in tokens:
            starts.append(f"TEXT {begin} calls")
        if syntax == "llama":
            starts.append("calls")
        text = _text_but('"name"') if syntax == "llama" else _ANY
        rules = [f"TEXT: /{text}/", f"lead[lazy]: TEXT {_quoted(form.begin)}"]
    else:
        starts = ["answer", f"{begin} calls"]
        rules = [("answer:", _answer_schema(answer, syntax), _COMPACT)]
    rules = [f"start: {' | '.join(starts)}", *rules, *_calls(tools, form, tokens, begin)]
    try:
        return "\n".join(map(json.dumps, rules))
    except RecursionError as error:
        raise PromptError("a schema is nested too deeply", "invalid_json_schema") from error


def fault(source: str, error: str) -> Rejected:
    """Return why tools cannot be used, for their source and what is said of the grammar."""
    place = re.search(r"\bat (\d+)\(\d+\): (.*)", error)
    rules = source.split("\n")
    rule = rules[int(place[1]) - 1] if place and int(place[1]) <= len(rules) else ""
    name = re.match(r'\["f\d+: \\"([^"\\]+)', rule)
    if place and rule.startswith('["answer:"'):
        return Rejected(f"the JSON schema cannot be used: {place[2]}", "invalid_json_schema")
    if place and name:
        why = f"Invalid schema for function {name[1]!r}: {place[2]}"
    else:
        why = f"the tools cannot be used: {error}"
    return Rejected(why, "invalid_function_parameters", "tools")


def _calls(tools: Tools, form: _Form, tokens: Mapping[str, int], begin: str) -> list[Rule]:
    """Return the rules of what comes behind the first beginning."""
    chosen = [one for one in tools.functions if tools.only in ("", one["name"])]
    if not chosen:
        raise PromptError(f"there is no function {tools.only!r} to call")
    between = _quoted(form.between)
    if form.end:
        between = f"{_quoted(form.close)} {_mark(form.end, tokens)} {between} {begin} "
        between += _quoted(form.open)
    more = f"({between} call){{0,{MAX_CALLS - 1}}}" if tools.parallel and not tools.only else ""
    end = _mark(form.end, tokens) if form.end else ""
    heads = [f"f{i}" for i in range(len(chosen))]
    name = '{"name": "'
    return [
        f"calls: {_quoted(form.open)} call {more} {_quoted(form.close)} {end}",
        f'call: {_quoted(name)} ({" | ".join(heads)}) "}}"',
        *(
            (f"{head}: {_quoted(_behind_name(one, form))}", one["parameters"], _options(one))
            for head, one in zip(heads, chosen, strict=True)
        ),
    ]


def _behind_name(function: Mapping[str, Any], form: _Form) -> str:
    return f'{function["name"]}", "{form.arguments}": '


def _options(function: Mapping[str, Any]) -> Mapping[str, Any]:
    # With `strict` false, what cannot be followed of the schema is not.
    return {**_TRAINED, "lenient": True} if function.get("strict") is False else _TRAINED


def _answer_schema(answer: Constraint, syntax: Syntax) -> object:
    if syntax == "llama":
        raise PromptError(
            "response_format: this model writes calls as JSON, so an answer that is JSON too could "
            "not be told from them; send tools or a response_format, or tool_choice 'required'"
        )
    match answer.kind:
        case "json_object":
            return {"type": "object"}
        case "json_schema":
            return _loaded(answer.source)
    raise PromptError(f"{answer.kind}: cannot be combined with tools")


def _loaded(source: str) -> object:
    try:
        return json.loads(source)
    except (ValueError, RecursionError) as error:
        raise PromptError(
            f"the JSON schema cannot be used: it is no JSON: {error}", "invalid_json_schema"
        ) from error


_ANY = r"(.|\n)*"


def _text_but(key: str) -> str:
    r"""Return a regular expression of texts that do not begin with an object of that first key.

    Spelled out, as `~` would be slower: after `\s*{\s*`, each character of the key may be another.
    """
    other = ""
    for character in reversed(key):
        here = rf"[^{character}]{_ANY}"
        other = f"({here}|{character}{other})?" if other else f"({here})?"
    # The first of them is a quotation mark, before which there may be white space.
    inside = other.replace('[^"]', r'[^"\s]', 1)
    return rf"\s*([^\s{{]{_ANY}|\{{\s*{inside})?"


def _mark(mark: str, tokens: Mapping[str, int]) -> str:
    return f"<[{tokens[mark]}]>" if mark in tokens else _quoted(mark)


def _quoted(text: str) -> str:
    """Return a Lark string. The empty one is nothing, which Lark has no string for."""
    return json.dumps(text) if text else ""
