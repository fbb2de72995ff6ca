"""Chat templates: what SmolLM2's gives, and that nothing a stranger writes gets out of them."""

from typing import Any

import pytest

from rayhost.engine import template
from rayhost.engine.base import PromptError
from rayhost.engine.template import ChatTemplate

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HELLO = ({"role": "user", "content": "Hello"},)


def render(source: str, messages: tuple[dict[str, Any], ...] = HELLO) -> str:
    return ChatTemplate(source, "<s>", "</s>").render(messages)


def refusal(source: str, messages: tuple[dict[str, Any], ...] = HELLO) -> PromptError:
    with pytest.raises(PromptError) as caught:
        render(source, messages)
    return caught.value


def test_smollm2_gets_its_own_system_message_and_the_turn_of_the_assistant() -> None:
    assert render(SMOLLM2) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_system_message_replaces_the_templates_own() -> None:
    messages = ({"role": "system", "content": "Be brief."}, *HELLO)
    assert render(SMOLLM2, messages) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_content_is_text_and_never_template() -> None:
    messages = ({"role": "user", "content": "{{ 7 * 7 }}{% raise %}"},)
    assert "{{ 7 * 7 }}{% raise %}" in render(SMOLLM2, messages)


def test_what_transformers_gives_a_template_is_there() -> None:
    assert render("{{ bos_token }}|{{ eos_token }}") == "<s>|</s>"
    assert render("{% for n in range(9) %}{% if n == 2 %}{% break %}{% endif %}{{ n }}{% endfor %}")
    assert render("{{ strftime_now('%d %b %Y') }}").split()[2].isdigit()
    assert render("a\n{% if true %}\nb\n{% endif %}\n") == "a\nb\n"  # trim_blocks, lstrip_blocks


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("tojson", '{"b": "<é>", "a": [1, true, null]}'),
        ("tojson(indent=1)", '{\n "b": "<é>",\n "a": [\n  1,\n  true,\n  null\n ]\n}'),
        ("tojson(ensure_ascii=True)", '{"b": "<\\u00e9>", "a": [1, true, null]}'),
        ("tojson(separators=(',', ':'))", '{"b":"<é>","a":[1,true,null]}'),
        ("tojson(sort_keys=True)", '{"a": [1, true, null], "b": "<é>"}'),
    ],
)
def test_tojson_is_plain_json_with_the_parameters_of_transformers(call: str, expected: str) -> None:
    value = {"b": "<é>", "a": [1, True, None]}
    assert render(f"{{{{ messages[0]['tool'] | {call} }}}}", ({"tool": value},)) == expected


def test_raise_exception_refuses_the_messages_in_the_templates_words() -> None:
    error = refusal("{{ raise_exception('roles must alternate') }}")
    assert error.code == "chat_template_error"
    assert "roles must alternate" in str(error)


@pytest.mark.parametrize(
    "source",
    [
        "{% for %}",
        "{{ messages",
        "{{ 'x' | no_such_filter }}",
        "{% for a in b %}" * 30 + "{% endfor %}" * 30,  # a SyntaxError of Python's, not jinja2's
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",  # RecursionError
        "{{ " + "1" * 5000 + " }}",  # ValueError: too many digits
    ],
    ids=["statement", "open", "filter", "nested loops", "nested brackets", "digits"],
)
def test_a_template_that_does_not_compile_is_refused(source: str) -> None:
    error = refusal(source)
    assert error.code == "chat_template_invalid"
    assert "does not compile" in str(error)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__['__builtins__'] }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ self.__init__.__globals__ }}",
        "{{ ''.format.__self__.__class__ }}",
        "{{ '{0.__class__.__mro__}'.format(1) }}",
        "{{ ('{0.__class__}' | format)(1) }}",
        "{{ messages | map(attribute='__class__') | list | first | attr('__mro__') }}",
        "{{ (messages | first)['__class__'].mro() }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
    ],
)
def test_nothing_gets_out_of_the_sandbox(source: str) -> None:
    # What a template must not touch is undefined to it: printed as nothing, any use an error.
    try:
        leaked = render(source)
    except PromptError:
        leaked = ""
    assert leaked == ""


def test_messages_cannot_be_changed() -> None:
    messages = ({"role": "user", "content": "Hello", "list": [1]},)
    assert refusal("{{ messages[0].update(content='x') }}", messages)
    assert refusal("{{ messages[0]['list'].append(2) }}", messages)
    assert refusal("{{ messages.clear() }}", messages)
    assert messages == ({"role": "user", "content": "Hello", "list": [1]},)


def test_a_range_bomb_is_refused() -> None:
    assert "Range too big" in str(refusal("{% for n in range(100000000) %}{% endfor %}"))


@pytest.mark.parametrize(
    "source",
    [
        "{% for n in range(9000) %}{{ 'x' * 1000 }}{% endfor %}",
        "{{ 'x' * 9000000 }}",
    ],
    ids=["many pieces", "one piece"],
)
def test_a_template_that_prints_too_much_is_stopped(source: str) -> None:
    error = refusal(source)
    assert error.code == "chat_template_limit"
    assert str(template.MAX_CHARACTERS) in str(error)


def test_a_template_that_prints_for_ever_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter(range(0, 10**12, 100_000_000))  # each look at the clock is 0.1 s later
    monkeypatch.setattr("rayhost.clock.now_ns", lambda: next(moments))
    loops = "{% for n in range(99999) %}" * 3 + "x" + "{% endfor %}" * 3
    assert refusal(loops).code == "chat_template_limit"
    assert template.MAX_NS < next(moments) <= template.MAX_NS + 300_000_000


@pytest.mark.parametrize(
    "content",
    [None, 7, ["a"], [{"type": "text", "text": "a"}], {"text": "a"}],
    ids=["null", "number", "list", "parts", "object"],
)
def test_content_that_a_template_cannot_join_is_refused(content: object) -> None:
    error = refusal(SMOLLM2, ({"role": "user", "content": content},))
    assert error.code == "chat_template_error"


@pytest.mark.parametrize("message", [{}, {"role": "user"}, {"content": "x"}])
def test_a_message_without_what_the_template_wants_is_refused(message: dict[str, Any]) -> None:
    assert refusal(SMOLLM2, (message,)).code == "chat_template_error"
