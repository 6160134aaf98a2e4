"""Chat formats: how turns become pieces. One visible table; the format, never a name, says what is written.

roles of the turns --script--> texts of the format, and between them the places of the turns
ChatFormat --template--> the same as Jinja, for other engines
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sightline.errors import Problem, Refused, nearest
from sightline.kinds import Config

PICTURES = -1
"""Step of a script: all pictures of the sample, where the format puts them before all text."""


class Role(Config):
    """What stands around the items of a role's turn. Control tokens are written by their names."""

    before: str = ""
    """Text before the turn."""
    prefix: str = ""
    """Joined to the turn's first text, left out where a picture stands first. An assistant's is learnt with the answer and no part of the prompt."""
    after: str = ""
    """Text after the turn; not learnt."""


class ChatFormat(Config):
    """A chat format. The assistant's text and what ends it are learnt, all else is context."""

    name: str
    """Its name in the table."""
    begin: str = ""
    """Written once, first."""
    system: Role = Role()
    """Around the system turn."""
    user: Role = Role()
    """Around a user turn."""
    assistant: Role = Role()
    """Around an assistant turn; `before` is the generation prompt, `after` follows the end of the answer."""
    end: str
    """End token of an answer, supervised."""
    stop: str = ""
    """Plain text that ends an answer in place of the end token: it is joined to the answer and learnt, and a model that writes it has finished."""
    default_system: str | None = None
    """System text where a sample has none."""
    system_place: Literal["turn", "in-user", "refused"] = "turn"
    """Whether a system turn stands by itself, inside the first user turn, or nowhere."""
    questions: bool = True
    """Whether the texts of user turns are written; False: their pictures alone."""
    pictures: Literal["in-place", "turn-start", "before-all", "first"] = "in-place"
    """Where pictures stand: where the sample shows them, at the start of their turn, before all text, or even before `begin`."""
    picture_after: str = ""
    """Text after each picture."""
    controls: tuple[str, ...] = ()
    """Control tokens that the format writes; a tokenizer trained for it gets them."""


_CHATML = ChatFormat(
    name="chatml-bare",
    system=Role(before="<|im_start|>system\n", after="<|im_end|>\n"),
    user=Role(before="<|im_start|>user\n", after="<|im_end|>\n"),
    assistant=Role(before="<|im_start|>assistant\n", after="\n"),
    end="<|im_end|>",
    controls=("<|im_start|>", "<|im_end|>"),
)
_FORMATS = (
    # ours, for tokenizers that a recipe trains
    ChatFormat(
        name="turns",
        user=Role(before="<|user|>"),
        system=Role(before="<|system|>"),
        assistant=Role(before="<|assistant|>"),
        end="<|end|>",
        controls=("<|user|>", "<|system|>", "<|assistant|>", "<|end|>"),
    ),
    # Qwen 1.5 to 2.5 and Qwen2-VL
    _CHATML.model_copy(update={"name": "chatml", "default_system": "You are a helpful assistant."}),
    # Yi; POINTS on Qwen2.5
    _CHATML,
    # NVLM. Its system text and the line end after the picture are unverified
    _CHATML.model_copy(update={"name": "nvlm", "default_system": "Answer the questions.", "pictures": "turn-start", "picture_after": "\n"}),
    # InternVL-1.5 on InternLM2: no line ends between turns, a line end after the picture
    ChatFormat(
        name="internvl",
        begin="<s>",
        system=Role(before="<|im_start|>system\n", after="<|im_end|>"),
        user=Role(before="<|im_start|>user\n", after="<|im_end|>"),
        assistant=Role(before="<|im_start|>assistant\n"),
        end="<|im_end|>",
        default_system="You are an AI assistant whose name is InternLM (\u4e66\u751f\u00b7\u6d66\u8bed).",
        pictures="turn-start",
        picture_after="\n",
        controls=("<s>", *_CHATML.controls),
    ),
    # LLaVA-1.5 and -NeXT on Vicuna. Training joins "ASSISTANT: answer", so that a sentencepiece tokenizer's answer begins with its usual space
    ChatFormat(
        name="vicuna",
        begin="<s>",
        system=Role(after=" "),
        user=Role(before="USER: ", after=" "),
        assistant=Role(before="ASSISTANT:", prefix=" "),
        end="</s>",
        default_system="A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions.",
        pictures="turn-start",
        picture_after="\n",
        controls=("<s>", "</s>"),
    ),
    # LLaVA-NeXT on Mistral 0.1 and 0.2, whose [INST] is plain text; that no space stands before </s> is Mistral's template, where LLaVA's own code writes one
    ChatFormat(
        name="mistral",
        begin="<s>",
        system=Role(after="\n\n"),
        user=Role(before="[INST] ", after=" [/INST]"),
        assistant=Role(prefix=" "),
        end="</s>",
        system_place="in-user",
        pictures="turn-start",
        picture_after="\n",
        controls=("<s>", "</s>"),
    ),
    # Pixtral, whose [INST] is a control token. Where its system text stands is unverified
    ChatFormat(
        name="pixtral",
        begin="<s>",
        system=Role(after="\n\n"),
        user=Role(before="[INST]", after="[/INST]"),
        end="</s>",
        system_place="in-user",
        controls=("<s>", "[INST]", "[/INST]", "</s>"),
    ),
    # Llama 3 and Llama 3.2 Vision
    ChatFormat(
        name="llama-3",
        begin="<|begin_of_text|>",
        system=Role(before="<|start_header_id|>system<|end_header_id|>\n\n", after="<|eot_id|>"),
        user=Role(before="<|start_header_id|>user<|end_header_id|>\n\n", after="<|eot_id|>"),
        assistant=Role(before="<|start_header_id|>assistant<|end_header_id|>\n\n"),
        end="<|eot_id|>",
        controls=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    # Idefics2: the colon touches a picture, and is a space away from text
    ChatFormat(
        name="idefics2",
        begin="<s>",
        system=Role(before="System:", prefix=" ", after="<end_of_utterance>\n"),
        user=Role(before="User:", prefix=" ", after="<end_of_utterance>\n"),
        assistant=Role(before="Assistant:", prefix=" ", after="\n"),
        end="<end_of_utterance>",
        controls=("<s>", "<end_of_utterance>"),
    ),
    # Molmo: plain text around each turn. Its system texts, the style of a task, are not written here; what stands around a system turn is ours
    ChatFormat(
        name="molmo",
        begin="<|endoftext|>",
        system=Role(before=" "),
        user=Role(before=" User: "),
        assistant=Role(before=" Assistant:", prefix=" "),
        end="<|endoftext|>",
        pictures="before-all",
        controls=("<|endoftext|>",),
    ),
    # MiniGPT-4, stage 2. Its prompt ends with a space of its own; more than one round, and system turns, are ours: it was trained on neither
    ChatFormat(
        name="minigpt-4",
        begin="<s>###",
        system=Role(after="###"),
        user=Role(before="Human: ", after=" "),
        assistant=Role(before="###Assistant: "),
        end="</s>",
        stop="###",
        controls=("<s>", "</s>"),
    ),
    # BLIP-2 with OPT: the prefix stands before the start token, a line end ends the answer. The prompt is unverified
    ChatFormat(
        name="blip-2",
        begin="</s>",
        system=Role(after=" "),
        user=Role(before="Question: "),
        assistant=Role(before=" Short answer:", prefix=" "),
        end="</s>",
        stop="\n",
        pictures="first",
        controls=("</s>",),
    ),
    # BLIP-2 with Flan-T5, whose encoder reads prefix and prompt. The prompt is unverified
    ChatFormat(
        name="blip-2-t5",
        system=Role(after=" "),
        user=Role(before="Question: "),
        assistant=Role(before=" Short answer:</s>"),
        end="</s>",
        pictures="before-all",
        controls=("</s>",),
    ),
    # InstructBLIP on Vicuna: prefix, start token (which is </s>), instruction, answer
    ChatFormat(name="instructblip", begin="</s>", system=Role(after=" "), end="</s>", pictures="first", controls=("</s>",)),
    # pictures, questions and answers with nothing between them
    ChatFormat(name="plain", begin="<s>", end="</s>", pictures="before-all", controls=("<s>", "</s>")),
    # LLaVA and MiniGPT-4, stage 1: picture, caption, line end; the question of a sample is not written
    ChatFormat(name="caption", begin="<s>", end="</s>", stop="\n", questions=False, pictures="before-all", controls=("<s>", "</s>")),
)
CHAT_FORMATS: dict[str, ChatFormat] = {chat.name: chat for chat in _FORMATS}


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


def script(chat: ChatFormat, roles: Sequence[str], answer: bool = True) -> list[str | int]:
    """A conversation of these roles as texts of the format and, between them, numbers of turns where their items stand (PICTURES: all pictures).

    Before a turn's first text comes its role's `prefix`; an assistant's items are followed by `stop`, else by `end`, and all of that is learnt.
    With answer=False it ends with the generation prompt. What would follow the last answer is left out: nothing learns from it, and a prompt does not have it.
    Raises Refused for a system turn where the format has none.
    """
    assert "system" not in roles[1:], "a system turn is the first"
    inside, system = chat.system_place == "in-user", _system(chat, roles)
    found: list[str | int] = [*_opening(chat), *([] if inside else system)]
    for number, role in enumerate(roles):
        if role == "user":
            found += [chat.user.before, *(system if inside and "user" not in roles[:number] else []), number, chat.user.after]
        elif role == "assistant":
            found += [chat.assistant.before, number, chat.assistant.after if number < len(roles) - 1 else ""]
    return [step for step in (*found, "" if answer else chat.assistant.before) if step != ""]


def _opening(chat: ChatFormat) -> list[str | int]:
    if chat.pictures == "first":
        return [PICTURES, chat.begin]
    return [chat.begin, PICTURES] if chat.pictures == "before-all" else [chat.begin]


def _system(chat: ChatFormat, roles: Sequence[str]) -> list[str | int]:
    if "system" not in roles:
        return [] if chat.default_system is None else [chat.system.before, chat.system.prefix, chat.default_system, chat.system.after]
    if chat.system_place == "refused":
        raise Refused(
            Problem(
                code="model/system-turn",
                place="model.chat",
                found=f"a system turn, for which chat format {chat.name!r} has no place",
                allowed="user and assistant turns",
                fix="say it in the first question, or choose another chat format",
            )
        )
    return [chat.system.before, 0, chat.system.after]


def template(chat: ChatFormat, placeholder: str = "<image>") -> str:
    """The same format as a Jinja chat template, for other engines (`chat_template.jinja`); `placeholder` is written for a picture."""
    default = "" if chat.default_system is None else _literal(chat.system.before + chat.system.prefix + chat.default_system + chat.system.after)
    system = f"{_literal(chat.system.before)}{{{{ said(messages[0], {chat.system.prefix!r}) }}}}{_literal(chat.system.after)}"
    if chat.system_place == "refused":
        system = "{{ raise_exception('this format has no system turns') }}"
    opened = f"{{% if messages[0]['role'] == 'system' %}}{system}{f'{{% else %}}{default}' if default else ''}{{% endif %}}"
    before, inside = opened, ""
    if chat.system_place == "in-user":
        before, inside = "", f"{{% if loop.index0 == (1 if messages[0]['role'] == 'system' else 0) %}}{opened}{{% endif %}}"
    question = f"{{{{ said(m, {chat.user.prefix!r}) }}}}" if chat.questions else "" if PICTURES in _opening(chat) else "{{ shown(m) }}"
    user = f"{{% if m['role'] == 'user' %}}{_literal(chat.user.before)}{inside}{question}{_literal(chat.user.after)}"
    ended = _literal((chat.stop or chat.end) + chat.assistant.after)
    assistant = f"{{% elif m['role'] == 'assistant' %}}{_literal(chat.assistant.before)}{{{{ said(m, {chat.assistant.prefix!r}) }}}}{ended}"
    other = "{% elif not loop.first %}{{ raise_exception('a system turn is the first') }}{% endif %}"
    prompt = f"{{% if add_generation_prompt %}}{_literal(chat.assistant.before)}{{% endif %}}" if chat.assistant.before else ""
    opening = "".join("{% for m in messages %}{{ shown(m) }}{% endfor %}" if step == PICTURES else _literal(str(step)) for step in _opening(chat))
    return f"{_macros(chat, placeholder)}{opening}{before}{{% for m in messages %}}{user}{assistant}{other}{{% endfor %}}{prompt}"


def _macros(chat: ChatFormat, placeholder: str) -> str:
    """Jinja macros: `shown` writes the pictures of a message, `said` its items with its role's prefix, apart from pictures that stand before all text."""
    picture = _literal(placeholder + chat.picture_after)
    shown = f"{{% if m['content'] is not string %}}{{% for p in m['content'] if p['type'] != 'text' %}}{picture}{{% endfor %}}{{% endif %}}"
    parted = "(m['content'] | rejectattr('type', 'equalto', 'text') | list) + (m['content'] | selectattr('type', 'equalto', 'text') | list)"
    order = {"in-place": "m['content']", "turn-start": parted}.get(chat.pictures, "m['content'] | selectattr('type', 'equalto', 'text')")
    text = "{% if loop.first %}{{ prefix }}{% endif %}{{ p['text'] }}"
    parts = f"{{% for p in {order} %}}{{% if p['type'] != 'text' %}}{picture}{{% else %}}{text}{{% endif %}}{{% endfor %}}"
    said = f"{{% if m['content'] is string %}}{{{{ prefix }}}}{{{{ m['content'] }}}}{{% else %}}{parts}{{% endif %}}"
    return f"{{% macro shown(m) %}}{shown}{{% endmacro %}}{{% macro said(m, prefix) %}}{said}{{% endmacro %}}"


def _literal(text: str) -> str:
    """Jinja that writes this text; its string literals escape as Python's do."""
    return "{{ " + repr(text) + " }}" if text else ""
