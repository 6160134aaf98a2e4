"""Reading chat templates: what published shapes of template write is found again as a ChatFormat, and what is not of our form is refused with its reason."""

from __future__ import annotations

import pytest

from sightline.errors import Refused
from sightline.model.chat import CHAT_FORMATS, Role, template
from sightline.model.chat_templates import read_template

S = {"bos_token": "<s>", "eos_token": "</s>"}
LLAMA_3 = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
CONTROLS = tuple(dict.fromkeys(token for chat in CHAT_FORMATS.values() for token in (*chat.controls, chat.end)))
PLAIN = ("[INST]", "[/INST]")  # control tokens of Pixtral, plain text for Mistral

# written for these tests, in the ways in which published templates are written
QWEN = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN_VISION = """{% for message in messages %}
    {%- if loop.first and message.role != 'system' %}
        {{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in part %}{{ part.text }}{% endif %}{% endfor %}
    {%- endif %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
BARE = "{% for m in messages %}<|im_start|>{{ m.role + '\n' + m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
LLAMA = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
VICUNA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set told = messages[0]['content'] %}{% set rest = messages[1:] %}{% else %}"
    "{% set told = 'A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user\\'s questions.' %}"
    "{% set rest = messages %}{% endif %}{{ told + ' ' }}{% for m in rest %}{% if m['role'] == 'user' %}{{ 'USER: ' + m['content'] + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' }}{% generation %}{{ m['content'] + eos_token }}{% endgeneration %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{% set told = messages[0]['content'] %}{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}"
    "{{ bos_token }}{% for m in rest %}{% if m['role'] == 'user' %}{% if loop.first and told is defined %}{{ '[INST] ' + told + '\n\n' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endif %}{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
PARTS = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'].capitalize() }}{% if m['content'][0]['type'] == 'image' %}:{% else %}: {% endif %}{% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<image>{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


@pytest.mark.parametrize(
    ("text", "name", "specials", "changes"),
    [
        (QWEN, "chatml", {}, {}),
        (QWEN_VISION, "chatml", {}, {}),
        (BARE, "chatml-bare", {}, {}),
        (LLAMA, "llama-3", LLAMA_3, {}),
        (VICUNA, "vicuna", S, {"pictures": "in-place", "picture_after": ""}),
        (MISTRAL, "mistral", S, {"system_place": "refused", "system": Role(), "pictures": "in-place", "picture_after": ""}),
        (MISTRAL_SYSTEM, "mistral", S, {"pictures": "in-place", "picture_after": ""}),
        # that a space is left out before a picture is not read: it is taken for a part of the text before the turn
        (PARTS, "idefics2", S, {"system": Role(before="System: ", after="<end_of_utterance>\n"), "user": Role(before="User: ", after="<end_of_utterance>\n")}),
    ],
    ids=["qwen", "qwen-vision", "bare", "llama-3", "vicuna", "mistral", "mistral-system", "parts"],
)
def test_published_shapes_are_the_formats_of_the_table(text: str, name: str, specials: dict[str, str], changes: dict[str, object]) -> None:
    controls = [token for token in CONTROLS if token not in PLAIN]
    found, wanted = read_template(text, specials, controls), CHAT_FORMATS[name].model_copy(update={"name": "template", **changes})
    assert found.model_copy(update={"controls": ()}) == wanted.model_copy(update={"controls": ()})
    assert set(found.controls) == set(wanted.controls)


def test_line_ends_between_tags_belong_to_the_texts() -> None:
    found = read_template(ZEPHYR, S, ["<s>", "</s>"])
    assert found.user == Role(before="<|user|>\n", after="</s>\n") and found.system == Role(before="<|system|>\n", after="</s>\n")
    assert found.assistant == Role(before="<|assistant|>\n", after="\n") and found.controls == ("</s>",)
    assert (found.begin, found.end, found.default_system) == ("", "</s>", None)


@pytest.mark.parametrize("name", [name for name, chat in CHAT_FORMATS.items() if chat.questions and not chat.stop])
def test_our_own_templates_are_read_back(name: str) -> None:
    """All but those that end answers with plain text or leave questions out; what is written is equal, where the pieces are cut may not be."""
    chat = CHAT_FORMATS[name]
    found = read_template(template(chat), {"bos_token": chat.begin}, chat.controls)
    assert (found.end, found.default_system, found.system_place) == (chat.end, chat.default_system, chat.system_place)
    assert set(found.controls) == set(chat.controls) and found.assistant == chat.assistant
    assert template(found.model_copy(update={"pictures": "in-place"})) == template(
        chat.model_copy(
            update={
                "pictures": "in-place",
                "picture_after": "",
                "user": Role(before=chat.user.before + chat.user.prefix, after=chat.user.after),
                "system": Role(before=chat.system.before + chat.system.prefix, after=chat.system.after),
            }
        )
    )


THINKING = BARE.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}")
FORGETFUL = BARE.replace("m.content", "(m.content if loop.index0 > messages | length - 4 else '...')")
STRIPPED = BARE.replace("m.content", "(m.content | replace('{', '('))")
UNENDED = "{% for m in messages %}{{ m.role.upper() + ': ' + m.content + ' ' }}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
LAST_USER = (  # the system text moves to the last question
    "{% set told = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}{% for m in messages %}"
    "{% if m['role'] == 'user' %}[INST]{% if loop.last or loop.index0 == messages | length - 2 %}{{ told }}{% endif %}{{ m['content'] }}[/INST]"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] }}</s>{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (THINKING, r"an answer does not go on from its prompt '<\|im_start\|>assistant\\n<think>\\n'"),
        (FORGETFUL, "turns are not written as fewer are|writes a message 0 times"),
        (STRIPPED, r"1 turns are not written as fewer are: .*Are \(\( brackets"),
        (UNENDED, "an answer is followed by ' ', which begins with no control token"),
        (LAST_USER, "turns are not written as fewer are"),
        ("{{ messages[0]['content'] }}", "writes a message 0 times"),
        ("{% for m in messages %}", "it fails: Unexpected end of template"),
        ("{{ raise_exception('never') }}", "it fails: never"),
        ("{{ messages.__class__.__mro__ }}", "it fails: .*unsafe"),
        ("static", "writes a message 0 times"),
    ],
)
def test_other_templates_are_refused_with_the_reason(text: str, said: str) -> None:
    with pytest.raises(Refused, match=rf"model/chat-template at folder/chat_template\.jinja\n  found:   .*({said})[^$]*fix: .*model\.chat"):
        read_template(text, S, CONTROLS, "folder/chat_template.jinja")
