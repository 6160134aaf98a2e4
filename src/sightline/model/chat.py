"""Chat formats: how turns become pieces. One visible table; the format, never a name, says what is written."""

from __future__ import annotations

from typing import Literal

from sightline.errors import Problem, Refused, nearest
from sightline.kinds import Config


class Role(Config):
    """What stands before and after the items of a role's turn. Control tokens are written by their names."""

    before: str = ""
    """Text before the turn."""
    after: str = ""
    """Text after the turn; not learnt."""


class ChatFormat(Config):
    """A chat format. The assistant's text and `end` are learnt, all else is context."""

    name: str
    """Its name in the table."""
    begin: str = ""
    """Written once, first."""
    system: Role = Role()
    """Around the system turn."""
    user: Role = Role()
    """Around a user turn."""
    assistant: Role = Role()
    """Around an assistant turn; `before` is the generation prompt, `after` follows `end`."""
    end: str
    """End token of an answer, supervised."""
    default_system: str | None = None
    """System text where a sample has none."""
    pictures: Literal["in-place", "turn-start", "before-all"] = "in-place"
    """Where pictures stand: where the sample shows them, at the start of their turn, or before all text."""
    controls: tuple[str, ...] = ()
    """Control tokens that the format writes; a tokenizer trained for it gets them."""


_QWEN_SYSTEM = "You are a helpful assistant."
CHAT_FORMATS: dict[str, ChatFormat] = {
    "turns": ChatFormat(
        name="turns",
        user=Role(before="<|user|>"),
        system=Role(before="<|system|>"),
        assistant=Role(before="<|assistant|>"),
        end="<|end|>",
        controls=("<|user|>", "<|system|>", "<|assistant|>", "<|end|>"),
    ),
    "chatml": ChatFormat(
        name="chatml",
        system=Role(before="<|im_start|>system\n", after="<|im_end|>\n"),
        user=Role(before="<|im_start|>user\n", after="<|im_end|>\n"),
        assistant=Role(before="<|im_start|>assistant\n", after="\n"),
        end="<|im_end|>",
        default_system=_QWEN_SYSTEM,
        controls=("<|im_start|>", "<|im_end|>"),
    ),
    "vicuna": ChatFormat(
        name="vicuna",
        begin="<s>",
        system=Role(after=" "),
        user=Role(before="USER: ", after=" "),
        assistant=Role(before="ASSISTANT: "),
        end="</s>",
        default_system="A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions.",
        pictures="turn-start",
        controls=("<s>", "</s>"),
    ),
    "llama-3": ChatFormat(
        name="llama-3",
        begin="<|begin_of_text|>",
        system=Role(before="<|start_header_id|>system<|end_header_id|>\n\n", after="<|eot_id|>"),
        user=Role(before="<|start_header_id|>user<|end_header_id|>\n\n", after="<|eot_id|>"),
        assistant=Role(before="<|start_header_id|>assistant<|end_header_id|>\n\n"),
        end="<|eot_id|>",
        controls=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "plain": ChatFormat(name="plain", begin="<s>", end="</s>", pictures="before-all", controls=("<s>", "</s>")),
}


def chat_format(name: str) -> ChatFormat:
    """The format of that name; Refused names the choices."""
    if name not in CHAT_FORMATS:
        raise Refused(
            Problem(
                code="model/chat-format",
                place="model.chat",
                found=repr(name),
                allowed=", ".join(CHAT_FORMATS),
                fix=nearest(name, list(CHAT_FORMATS)) or "choose one of the table",
            )
        )
    return CHAT_FORMATS[name]


def template(chat: ChatFormat) -> str:
    """The same format as a Jinja chat template, for other engines (`chat_template.jinja`)."""
    content = "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% else %}<image>{% endif %}{% endfor %}{% endif %}"
    default = (
        f"{{% if messages[0]['role'] != 'system' %}}{_literal(chat.system.before + chat.default_system + chat.system.after)}{{% endif %}}"
        if chat.default_system
        else ""
    )
    branch = "".join(
        f"{{% {word} m['role'] == '{role}' %}}{_literal(around.before)}{content}{_literal(tail + around.after)}"
        for word, role, around, tail in (("if", "system", chat.system, ""), ("elif", "user", chat.user, ""), ("elif", "assistant", chat.assistant, chat.end))
    )
    prompt = f"{{% if add_generation_prompt %}}{_literal(chat.assistant.before)}{{% endif %}}"
    return f"{_literal(chat.begin)}{default}{{% for m in messages %}}{branch}{{% endif %}}{{% endfor %}}{prompt}"


def _literal(text: str) -> str:
    """Jinja that writes this text; its string literals escape as Python's do."""
    return "{{ " + repr(text) + " }}" if text else ""
