"""Chat templates: what SmolLM2's gives, and that nothing a stranger writes gets out of them."""

from typing import Any

import psutil
import pytest

from rayhost.engine.base import PromptError
from rayhost.engine.renderer import MAX_CHARACTERS, Limits
from rayhost.engine.template import ChatTemplate
from tests.support.waiting import eventually

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HELLO = ({"role": "user", "content": "Hello"},)


QUICK = Limits(cpu_s=0.3)


def render(source: str, messages: tuple[dict[str, Any], ...] = HELLO, **options: Any) -> str:
    return ChatTemplate(source, "<s>", "</s>", QUICK).render(messages, **options)


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
    assert render("{{ strftime_now('%H:%M:%S.%f %Z') }}") == "00:00:00.000000 UTC"
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
    assert str(MAX_CHARACTERS) in str(error)


@pytest.mark.parametrize(
    "source",
    [
        "{% for n in range(99999) %}" * 3 + "x" + "{% endfor %}" * 3,
        "{% for n in range(99999) %}" * 3 + "{% endfor %}" * 3,
        "{% macro f(n) %}{{ f(n - 1) if n }}{{ f(n - 1) if n }}{% endmacro %}{{ f(90) | length }}",
        "{{ lipsum(n=10 ** 9) }}",
        "{{ ((10 ** 99999) ** 999) % 7 }}",
    ],
    ids=["prints", "prints nothing", "calls", "filler", "power"],
)
def test_a_template_that_never_ends_is_stopped(source: str) -> None:
    assert refusal(source).code == "chat_template_limit"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ('a' * 10 ** 9) | length }}",
        "{{ ('a' | center(10 ** 9)) | length }}",
        "{{ ('%01000000000d' % 1) | length }}",
        "{{ '{:01000000000d}'.format(1) | length }}",
        "{{ [1] * 10 ** 9 }}",
        "{% set all = namespace(text='aaaaaaaa') %}{% for n in range(60) %}"
        "{% set all.text = all.text ~ all.text %}{% endfor %}",
    ],
)
def test_a_template_that_wants_all_memory_is_stopped(source: str) -> None:
    assert refusal(source).code == "chat_template_limit"


def test_a_template_is_good_again_after_it_was_stopped() -> None:
    moody = ChatTemplate(
        "{% if messages[0].content == 'bomb' %}{% for n in range(99999) %}{% for m in range(99999)"
        " %}{% endfor %}{% endfor %}{% endif %}{{ messages[0].content }}",
        "<s>",
        "</s>",
        QUICK,
    )
    assert moody.render(HELLO) == "Hello"
    with pytest.raises(PromptError):
        moody.render([{"role": "user", "content": "bomb"}])
    assert moody.render(HELLO) == "Hello"


def test_a_renderer_that_ended_for_want_of_work_is_replaced() -> None:
    lazy = ChatTemplate("{{ messages[0].content }}", "<s>", "</s>", Limits(idle_s=0.05))
    before = psutil.Process().children()
    assert lazy.render(HELLO) == "Hello"
    (child,) = set(psutil.Process().children()) - set(before)
    eventually(lambda: child.status() == psutil.STATUS_ZOMBIE, "the renderer to end")
    assert lazy.render(HELLO) == "Hello"


def test_a_renderer_ends_with_its_template() -> None:
    before = set(psutil.Process().children())
    given_up = ChatTemplate("{{ messages[0].content }}", "<s>", "</s>")
    given_up.render(HELLO)
    (child,) = set(psutil.Process().children()) - before
    del given_up
    assert not child.is_running()


def test_the_body_of_a_generation_block_is_printed() -> None:
    assert render("a{% generation %}{{ messages[0].content }}{% endgeneration %}b") == "aHellob"


def test_what_the_request_adds_is_there_and_replaces_nothing_of_the_hosts() -> None:
    source = "{{ mood }}{{ bos_token }}{{ messages | length }}{{ tools is none }}"
    extra = {"mood": "calm", "bos_token": "x", "messages": [], "tools": []}
    assert render(source, extra=extra) == "calm<s>1True"


CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.mark.parametrize("begun", ["The sea", "The sea ", "", " {{ x }}", "é\n"])
def test_a_final_message_that_goes_on_has_no_end(begun: str) -> None:
    messages = (*HELLO, {"role": "assistant", "content": begun})
    assert render(CHATML, messages, continue_final=True) == (
        f"<|user|>Hello<|end|>\n<|assistant|>{begun}"
    )


def test_a_template_that_does_not_print_the_final_message_cannot_continue_it() -> None:
    with pytest.raises(PromptError, match="cannot be continued"):
        render("{{ messages | length }}", HELLO, continue_final=True)


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


def test_a_template_that_does_not_compile_is_compiled_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = ChatTemplate("{% for %}", "<s>", "</s>")
    messages = []
    for _ in range(2):
        with pytest.raises(PromptError) as caught:
            broken.render(HELLO)
        messages.append((str(caught.value), caught.value.code))
        monkeypatch.setattr("subprocess.Popen", None)
    assert messages[0] == messages[1]
