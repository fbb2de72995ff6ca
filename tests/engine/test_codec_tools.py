"""Tools with a real vocabulary: prompts, grammars, and marks that are tokens of their own."""

from pathlib import Path
from typing import Any

import gguf
import pytest
from llguidance import LLMatcher

from rayhost.engine.base import LoadError, PromptError
from rayhost.engine.codec import LlamaCodec
from rayhost.engine.grammar_check import grammar_of
from rayhost.engine.grammar_compiler import tokenizer_of
from rayhost.engine.llama import LlamaEngine
from rayhost.http.tool_calls import Call, split_calls
from rayhost.ipc.messages import Constraint, Tools
from tests.engine.test_tool_prompts import CALLS, HERMES, LLAMA, MISTRAL, QUESTION, RAIN, SUN
from tests.engine.test_tools import BOTH, PARIS, UTC
from tests.http.test_tool_calls import written
from tests.support.tiny_gguf import write_tiny_llama
from tests.worker.process import load_of

TOOLS = Tools(BOTH)
MUST = Tools(BOTH, "required")
CONTROL = gguf.TokenType.CONTROL
USER_DEFINED = gguf.TokenType.USER_DEFINED


def engine(tmp_path: Path, chat: bool | str = True, **marks: Any) -> LlamaEngine:
    path = write_tiny_llama(tmp_path / "tools.gguf", chat=chat, marks=marks)
    return LlamaEngine(load_of(path, context=4000, concurrency=1))


def matcher(codec: LlamaCodec, constraint: Constraint) -> LLMatcher:
    assert constraint.kind == "calls"
    tokenizer = tokenizer_of(codec.words())
    made = LLMatcher(tokenizer, grammar_of(constraint.kind, constraint.source), log_level=0)
    assert not made.is_error(), made.get_error()
    return made


@pytest.mark.parametrize("kind", [None, CONTROL, USER_DEFINED])
@pytest.mark.parametrize("tools", [TOOLS, MUST], ids=["auto", "required"])
@pytest.mark.parametrize(
    ("template", "syntax", "marks"),
    [
        (True, "hermes", ("<tool_call>", "</tool_call>")),
        (HERMES, "hermes", ("<tool_call>", "</tool_call>")),
        (MISTRAL, "mistral", ("[TOOL_CALLS]",)),
    ],
)
def test_calls_are_written_and_read_whatever_kind_of_token_their_marks_are(
    tmp_path: Path,
    template: bool | str,
    syntax: str,
    marks: tuple[str, ...],
    tools: Tools,
    kind: gguf.TokenType | None,
) -> None:
    loaded = engine(tmp_path, template, **(dict.fromkeys(marks, kind) if kind else {}))
    codec = loaded.codec
    constraint, found = codec.calls(tools, None)
    assert found == syntax
    text = written(syntax, PARIS, UTC)
    ids = codec.tokenize(text, add_special=False, parse_special=True)
    marked = [token for token in ids if codec.name(token).decode() in marks]
    assert bool(marked) == (kind is not None)
    made = matcher(codec, constraint)
    assert made.try_consume_tokens(ids) == len(ids)
    assert made.is_accepting()
    answer = b"".join(codec.piece(token) for token in ids).decode()
    assert split_calls(answer, syntax) == (None, [PARIS, UTC])


def test_a_call_begun_with_a_token_is_bound(tmp_path: Path) -> None:
    codec = engine(tmp_path, **{"<tool_call>": CONTROL, "</tool_call>": CONTROL}).codec
    constraint, _ = codec.calls(TOOLS, None)
    for text, taken in (("Hello <tool_call>Hello", False), ("Hello <tool_call>\n{", True)):
        ids = codec.tokenize(text, add_special=False, parse_special=True)
        assert (matcher(codec, constraint).try_consume_tokens(ids) == len(ids)) == taken


def test_other_control_tokens_have_no_text(tmp_path: Path) -> None:
    codec = engine(tmp_path, **{"<tool_call>": CONTROL, "<think>": CONTROL}).codec
    ids = codec.tokenize("<think><tool_call><|im_end|>", add_special=False, parse_special=True)
    assert [codec.piece(token) for token in ids] == [b"", b"<tool_call>", b""]


def test_a_prompt_with_tools_shows_them(tmp_path: Path) -> None:
    codec = engine(tmp_path, HERMES).codec
    talk = [QUESTION, CALLS, RAIN, SUN]
    text = codec.render(talk, TOOLS)
    assert '"name": "get_time"' in text
    assert "<|tool|>rain" in text
    assert codec.chat(talk, TOOLS) == codec.text(text)
    assert '"name": "get_time"' not in codec.render(talk)


def test_a_template_without_tools_shows_them_as_text(tmp_path: Path) -> None:
    codec = engine(tmp_path).codec
    text = codec.render([QUESTION, CALLS, RAIN, SUN], TOOLS)
    assert text.startswith("<|im_start|>system\nYou can call these functions:")
    assert "<|im_start|>user\n<tool_response>\nrain\n</tool_response>" in text


@pytest.mark.parametrize(
    ("template", "support"),
    [(True, "generic"), (HERMES, "native"), (MISTRAL, "native"), (False, "")],
)
def test_who_tells_the_model_of_tools_is_known(
    tmp_path: Path, template: bool | str, support: str
) -> None:
    assert engine(tmp_path, template).facts.tools == support


def test_a_template_that_does_not_compile_knows_no_tools(tmp_path: Path) -> None:
    assert engine(tmp_path, "{% for %}").facts.tools == ""


def test_a_template_that_takes_one_call_gets_one(tmp_path: Path) -> None:
    codec = engine(tmp_path, LLAMA).codec
    constraint, syntax = codec.calls(MUST, None)
    assert syntax == "llama"
    ids = codec.text(written("llama", PARIS))
    made = matcher(codec, constraint)
    assert made.try_consume_tokens(ids) == len(ids)
    assert made.is_stopped()


def test_options_and_the_last_message_reach_the_template(tmp_path: Path) -> None:
    source = "{{ mood }}{% for m in messages %}[{{ m.content }}]{% endfor %}"
    codec = engine(tmp_path, source).codec
    said = {"role": "assistant", "content": "The sea"}
    assert codec.render([QUESTION, said], None, True, {"mood": "calm"}) == (
        "calm[Where does it rain?][The sea"
    )


def test_a_template_of_the_profile_is_taken_instead_of_the_files(tmp_path: Path) -> None:
    for chat in (True, False):
        path = write_tiny_llama(tmp_path / f"{chat}.gguf", chat=chat)
        load = load_of(path, context=512, concurrency=1, chat_template="{{ messages[0].content }}")
        loaded = LlamaEngine(load)
        assert loaded.facts.chat
        assert loaded.codec.render([QUESTION]) == QUESTION["content"]


def test_a_template_of_the_profile_that_does_not_compile_is_no_model(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf")
    with pytest.raises(LoadError, match=r"chat_template: .*does not compile"):
        LlamaEngine(load_of(path, context=512, chat_template="{% for %}"))
    picky = "{{ raise_exception('no messages') if not messages }}"
    LlamaEngine(load_of(path, context=512, chat_template=picky))


def test_a_model_without_a_template_has_no_tools(tmp_path: Path) -> None:
    codec = engine(tmp_path, False).codec
    with pytest.raises(PromptError) as caught:
        codec.calls(TOOLS, None)
    assert caught.value.code == "chat_template_missing"


@pytest.mark.heavy
@pytest.mark.parametrize("tools", [TOOLS, MUST], ids=["auto", "required"])
def test_calls_with_the_vocabulary_of_smollm2(smollm2: Path, tools: Tools) -> None:
    codec = LlamaEngine(load_of(smollm2, context=512, concurrency=1)).codec
    constraint, syntax = codec.calls(tools, None)
    zone = Call("get_time", '{"zone": "CET"}')
    for calls in ([PARIS], [UTC, zone]):
        ids = codec.tokenize(written(syntax, *calls), add_special=False, parse_special=True)
        made = matcher(codec, constraint)
        assert made.try_consume_tokens(ids) == len(ids)
        assert made.is_accepting()
    begun = matcher(codec, constraint)
    bad = codec.tokenize('<tool_call>\n{"name": "get_wind', add_special=False, parse_special=True)
    assert begun.try_consume_tokens(bad) < len(bad)
