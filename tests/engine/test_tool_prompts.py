"""What templates are found to know of tools, and what those that know nothing are shown."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from rayhost.engine.base import PromptError
from rayhost.engine.template import ChatTemplate
from rayhost.engine.tool_prompts import Dialect, detect, shown
from rayhost.ipc.messages import Tools

PLAIN = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
STRICT = (
    "{% for m in messages %}{% if m.role != ['user', 'assistant'][loop.index0 % 2] %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}[{{ m.role }}]{{ m.content }}"
    "{% endfor %}"
)
HERMES = (
    "{% if tools %}<|system|>{{ tools | map('tojson') | join('\n') }} Answer with <tool_call>\n"
    '{"name": <name>, "arguments": <object>}\n</tool_call><|end|>{% endif %}'
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% for c in m.tool_calls or [] %}"
    '<tool_call>\n{"name": "{{ c.function.name }}", '
    '"arguments": {{ c.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|end|>{% endfor %}"
)
MISTRAL = (
    "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}{% endif %}{% for m in messages %}"
    "{% if m.tool_calls %}[TOOL_CALLS][{% for c in m.tool_calls %}{% if c.id | length != 9 %}"
    "{{ raise_exception('ids of length 9!') }}{% endif %}{{ (c.function | tojson)[:-1] }}, "
    '"id": "{{ c.id }}"}{{ "," if not loop.last }}{% endfor %}]</s>'
    '{% elif m.role == "tool" %}[RESULT]{"content": "{{ m.content }}", "id": "{{ m.tool_call_id }}"'
    "}{% else %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}"
)
LLAMA = (
    "{% for m in messages %}<|{{ m.role }}|>{% if loop.first and tools %}{{ tools | tojson }}"
    "{% endif %}{% if m.tool_calls %}{% if m.tool_calls | length != 1 %}"
    "{{ raise_exception('single tool-calls only') }}{% endif %}{% set f = m.tool_calls[0].function"
    ' %}{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}'
    "{% else %}{{ m.content }}{% endif %}<|end|>{% endfor %}"
)
XML = (
    "{{ tools | tojson }}{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
    "<tool_call><function={{ c.function.name }}></function></tool_call>{% endfor %}{% endfor %}"
)
UNANSWERED = HERMES.replace("{{ m.content }}", "{{ m.content if m.role != 'tool' }}")


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, "<s>", "</s>")


def dialect_of(made: ChatTemplate) -> Dialect:
    return detect(lambda messages, functions: made.render(messages, tools=functions))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (PLAIN, Dialect("hermes", False)),
        (STRICT, Dialect("hermes", False, has_system=False)),
        (HERMES, Dialect("hermes", True)),
        (MISTRAL, Dialect("mistral", True)),
        (LLAMA, Dialect("llama", True, one_call=True)),
        (XML, Dialect("hermes", False)),
        (UNANSWERED, Dialect("hermes", False)),
        ("{{ raise_exception('no') }}", Dialect("hermes", False, has_system=False)),
    ],
    ids=["plain", "strict", "hermes", "mistral", "llama", "xml", "unanswered", "refuses all"],
)
def test_a_template_is_known_by_what_it_prints(source: str, expected: Dialect) -> None:
    assert dialect_of(template(source)) == expected


def test_a_template_that_never_ends_is_no_template_without_tools() -> None:
    with pytest.raises(PromptError) as caught:
        dialect_of(template("{{ 'a' * 10 ** 9 }}"))
    assert caught.value.code == "chat_template_limit"


def call(call_id: str, **arguments: Any) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


WEATHER = {"name": "get_weather", "description": "Of a city.", "parameters": {"type": "object"}}
TOOLS = Tools(({**WEATHER, "strict": False},))
QUESTION: dict[str, Any] = {"role": "user", "content": "Where does it rain?"}
CALLS: dict[str, Any] = {
    "role": "assistant",
    "content": "I look.",
    "tool_calls": [call("call_1", city="Paris"), call("call_2", city="Rome")],
}
RAIN = {"role": "tool", "tool_call_id": "call_1", "content": "rain"}
SUN = {"role": "tool", "tool_call_id": "call_2", "content": "sun"}
TALK = [QUESTION, CALLS, RAIN, SUN]


def prompt(source: str, messages: Sequence[Mapping[str, Any]], tools: Tools | None) -> str:
    made = template(source)
    told, functions = shown(dialect_of(made), messages, tools)
    return made.render(told, tools=functions)


def test_a_template_that_knows_tools_is_given_them() -> None:
    text = prompt(HERMES, TALK, TOOLS)
    assert f"<|system|>{json.dumps({'type': 'function', 'function': WEATHER})}" in text
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}' in text
    assert text.endswith("<|tool|>rain<|end|><|tool|>sun<|end|>")
    assert "<|system|>" not in prompt(HERMES, TALK, None)


def test_mistral_gets_the_ids_that_it_takes() -> None:
    text = prompt(MISTRAL, TALK, TOOLS)
    assert '"id": "call00000"},' in text
    assert '[RESULT]{"content": "sun", "id": "call00001"}' in text
    assert CALLS["tool_calls"][0]["id"] == "call_1", "what was given is as it was"


def test_a_template_that_takes_one_call_at_a_time_gets_one_at_a_time() -> None:
    strange = {"role": "tool", "tool_call_id": "other", "content": "snow"}
    text = prompt(LLAMA, [*TALK, strange, QUESTION], TOOLS)
    order = [text.rindex(one) for one in ("Paris", "|>rain", "Rome", "|>sun", "|>snow")]
    assert order == sorted(order)


DESCRIBED = f"You can call these functions:\n<tools>\n{json.dumps(WEATHER)}\n</tools>\n"


def test_other_templates_get_a_description_in_the_system_message() -> None:
    text = prompt(PLAIN, [QUESTION], TOOLS)
    assert text.startswith(f"<|system|>{DESCRIBED}")
    assert '<tool_call>\n{"name": "<name>", "arguments": {<arguments>}}\n</tool_call>' in text
    assert text.endswith("<|end|>\n<|user|>Where does it rain?<|end|>\n<|assistant|>")
    rules = {"role": "system", "content": "Be brief."}
    text = prompt(PLAIN, [rules, QUESTION], TOOLS)
    assert text.startswith(f"<|system|>{DESCRIBED}")
    assert "\n\nBe brief.<|end|>\n<|user|>Where" in text


def test_other_templates_get_calls_and_results_as_text() -> None:
    text = prompt(PLAIN, TALK, None)
    assert text == (
        "<|user|>Where does it rain?<|end|>\n"
        "<|assistant|>I look.\n"
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call><|end|>\n'
        "<|user|><tool_response>\nrain\n</tool_response>\n"
        "<tool_response>\nsun\n</tool_response><|end|>\n<|assistant|>"
    )


def test_turns_alternate_for_templates_that_want_it() -> None:
    silent = {**CALLS, "content": ""}
    text = prompt(STRICT, [QUESTION, silent, RAIN, {"role": "user", "content": "And?"}], TOOLS)
    assert text.startswith(f"[user]{DESCRIBED}")
    assert "\n\nWhere does it rain?[assistant]<tool_call>\n" in text
    assert text.endswith("[user]<tool_response>\nrain\n</tool_response>\nAnd?")


def test_messages_without_tools_are_shown_as_they_are() -> None:
    for source in (PLAIN, HERMES, MISTRAL, LLAMA):
        told, functions = shown(dialect_of(template(source)), [QUESTION], None)
        assert (list(told), functions) == ([QUESTION], None)
