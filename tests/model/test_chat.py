"""Chat formats: the exact text of each; the Jinja template says the same; tokens of a prompt are those with which training goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from sightline.errors import Refused
from sightline.model.chat import CHAT_FORMATS, PICTURES, ChatFormat, Role, chat_format, script, template
from sightline.model.tokens import PAD, TextTokenizer

Said = Sequence[tuple[str, str | list[str | None]]]
"""(role, items) of turns: text, or texts and pictures (None)."""

QWEN = "You are a helpful assistant."
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions."
)
SHANGHAI = "You are an AI assistant whose name is InternLM (\u4e66\u751f\u00b7\u6d66\u8bed)."
CHATML = "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\nThree.<|im_end|>\n<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"
WRITTEN = {
    "turns": "<|user|>How many?<|assistant|>Three.<|end|><|user|>Where?<|assistant|>",
    "chatml": f"<|im_start|>system\n{QWEN}<|im_end|>\n{CHATML}",
    "chatml-bare": CHATML,
    "nvlm": f"<|im_start|>system\nAnswer the questions.<|im_end|>\n{CHATML}",
    "internvl": (
        f"<s><|im_start|>system\n{SHANGHAI}<|im_end|><|im_start|>user\nHow many?<|im_end|>"
        "<|im_start|>assistant\nThree.<|im_end|><|im_start|>user\nWhere?<|im_end|><|im_start|>assistant\n"
    ),
    "vicuna": f"<s>{VICUNA} USER: How many? ASSISTANT: Three.</s>USER: Where? ASSISTANT:",
    "mistral": "<s>[INST] How many? [/INST] Three.</s>[INST] Where? [/INST]",
    "pixtral": "<s>[INST]How many?[/INST]Three.</s>[INST]Where?[/INST]",
    "llama-3": (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHow many?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nThree.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhere?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "idefics2": "<s>User: How many?<end_of_utterance>\nAssistant: Three.<end_of_utterance>\nUser: Where?<end_of_utterance>\nAssistant:",
    "molmo": "<|endoftext|> User: How many? Assistant: Three.<|endoftext|> User: Where? Assistant:",
    "minigpt-4": "<s>###Human: How many? ###Assistant: Three.###Human: Where? ###Assistant: ",
    "blip-2": "</s>Question: How many? Short answer: Three.\nQuestion: Where? Short answer:",
    "blip-2-t5": "Question: How many? Short answer:</s>Three.</s>Question: Where? Short answer:</s>",
    "instructblip": "</s>How many?Three.</s>Where?",
    "plain": "<s>How many?Three.</s>Where?",
    "caption": "<s>Three.\n",
}
ASKED: Said = [("user", "How many?"), ("assistant", "Three."), ("user", "Where?")]
SHOWN: Said = [("user", ["Look: ", None, "how many?"]), ("assistant", "Three."), ("user", [None, None, "Where?"])]
CONVERSATIONS: dict[str, Said] = {
    "asked": ASKED,
    "system": [("system", 'It\'s a "test" \\ {{ of }} {% quotes %}\n'), *ASKED],
    "answered": [*ASKED, ("assistant", "\u5728 the harbor\n")],
    "nothing asked": [("user", "")],
    "one picture": [("user", [None, "Where?"])],
    "pictures": SHOWN,
    "pictures and a system text": [("system", "Be brief."), *SHOWN, ("assistant", "Here.")],
}


def runs(chat: ChatFormat, said: Said, answer: bool) -> Iterator[tuple[bool, str]]:
    """(is it learnt, text) of all that is written, as the processor goes through a script."""
    picture = "<image>" + chat.picture_after
    for step in script(chat, [role for role, _ in said], answer):
        if isinstance(step, str):
            yield False, step
        elif step == PICTURES:
            yield False, picture * sum(items.count(None) for _, items in said if not isinstance(items, str))
        else:
            yield from _turn(chat, *said[step], picture)


def _turn(chat: ChatFormat, role: str, items: str | list[str | None], picture: str) -> Iterator[tuple[bool, str]]:
    around: Role = getattr(chat, role)
    order = [items] if isinstance(items, str) else items
    if chat.pictures != "in-place":
        order = sorted(order, key=lambda item: item is not None)
    if chat.pictures in ("before-all", "first"):
        order = [item for item in order if item is not None]
    if role == "user" and not chat.questions:
        order = [item for item in order if item is None]
    told = "".join(picture if item is None else item for item in order)
    begins = around.prefix if order and order[0] is not None else ""
    yield role == "assistant", begins + told + ((chat.stop or chat.end) if role == "assistant" else "")


def text_of(chat: ChatFormat, said: Said, answer: bool = False) -> str:
    """All that is written, as one text."""
    return "".join(text for _, text in runs(chat, said, answer))


def rendered(chat: ChatFormat, said: Said, parts: bool = False) -> str:
    """The template in the environment that engines use."""
    messages: list[Any] = []
    for role, items in said:
        listed = [items] if isinstance(items, str) else items
        content = [{"type": "image"} if item is None else {"type": "text", "text": item} for item in listed]
        messages.append({"role": role, "content": items if isinstance(items, str) and not parts else content})
    jinja = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template(chat))
    return jinja.render(messages=messages, add_generation_prompt=said[-1][0] == "user")


@pytest.fixture(params=CHAT_FORMATS)
def chat(request: pytest.FixtureRequest) -> ChatFormat:
    return CHAT_FORMATS[request.param]


def test_every_format_of_the_table_is_known_by_heart(chat: ChatFormat) -> None:
    assert set(WRITTEN) == set(CHAT_FORMATS)
    assert text_of(chat, ASKED) == WRITTEN[chat.name]


def test_a_format_names_every_control_token_that_it_writes(chat: ChatFormat) -> None:
    bracketed = [
        token for token in ("<s>", "</s>", "<|user|>", "<|end|>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|endoftext|>") if token in WRITTEN[chat.name]
    ]
    assert {*bracketed, chat.end} <= set(chat.controls)
    assert all(token in text_of(chat, CONVERSATIONS["system"], True) + chat.end for token in chat.controls)


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_template_says_what_the_script_says(chat: ChatFormat, name: str) -> None:
    said = CONVERSATIONS[name]
    answered = said[-1][0] == "assistant"
    # what follows the end of the last answer is not learnt, so a script leaves it out; a template always writes it
    ours = text_of(chat, said, answered) + (chat.assistant.after if answered else "")
    assert rendered(chat, said) == ours == rendered(chat, said, parts=True)


def test_pictures_stand_where_the_published_systems_put_them() -> None:
    said: Said = [("user", ["How many?", None]), ("assistant", "Three.")]
    texts = {name: text_of(chat, said, True) for name, chat in CHAT_FORMATS.items()}
    assert texts["vicuna"] == f"<s>{VICUNA} USER: <image>\nHow many? ASSISTANT: Three.</s>"
    assert texts["caption"] == "<s><image>Three.\n"
    assert texts["mistral"] == "<s>[INST] <image>\nHow many? [/INST] Three.</s>"
    assert texts["pixtral"] == "<s>[INST]How many?<image>[/INST]Three.</s>"
    assert texts["molmo"] == "<|endoftext|><image> User: How many? Assistant: Three.<|endoftext|>"
    assert texts["blip-2"] == "<image></s>Question: How many? Short answer: Three.\n"
    assert texts["instructblip"] == "<image></s>How many?Three.</s>"
    assert texts["llama-3"].split("<|end_header_id|>\n\n")[1] == "How many?<image><|eot_id|><|start_header_id|>assistant"
    assert text_of(CHAT_FORMATS["idefics2"], [("user", [None, "Where?"])]) == "<s>User:<image>Where?<end_of_utterance>\nAssistant:"


def test_a_system_text_stands_inside_the_first_question_of_mistral() -> None:
    assert text_of(CHAT_FORMATS["mistral"], [("system", "Be brief."), *ASKED]) == "<s>[INST] Be brief.\n\nHow many? [/INST] Three.</s>[INST] Where? [/INST]"


def test_a_format_without_system_turns_refuses_them() -> None:
    silent = CHAT_FORMATS["turns"].model_copy(update={"system_place": "refused"})
    assert text_of(silent, ASKED) == WRITTEN["turns"]
    with pytest.raises(Refused, match=r"model/system-turn at model\.chat\n  found:   a system turn, for which chat format 'turns' has no place"):
        script(silent, ["system", "user"])


# tokens


def llama(chat: ChatFormat, folder: Path) -> TextTokenizer:
    """As sentencepiece's BPE in the layout of Llama 2: every text is given a space, and words are not split before merging."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator([*tiny.TEXTS, "a###"], trainer)
    tokenizer.pre_tokenizer = None  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (PAD, *dict.fromkeys((*chat.controls, chat.end)))])
    return TextTokenizer(tokenizer.to_str(), chat.end, PAD, controls=chat.controls)


TOKENIZERS = {**tiny.TOKENIZERS, "llama": llama}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest, chat: ChatFormat, tmp_path: Path) -> TextTokenizer:
    return TOKENIZERS[request.param](chat, tmp_path)


def ids_of(tokenizer: TextTokenizer, chat: ChatFormat, said: Said, answer: bool) -> list[tuple[bool, int]]:
    """(is it learnt, token): context is tokenised together, an answer with its prefix and what ends it."""
    own_space = tokenizer.piece(tokenizer.encode("x")[0]).startswith(" ")
    found: list[tuple[bool, int]] = []
    for learnt, group in groupby(runs(chat, said, answer), key=lambda run: run[0]):
        for known, part in tokenizer.split_controls("".join(text for _, text in group), dict.fromkeys((*chat.controls, chat.end))):
            spaced = learnt and own_space and chat.assistant.prefix == " "
            ids = [tokenizer.control(part)] if known else tokenizer.encode(part.removeprefix(" ") if spaced else part)
            found += [(learnt, one) for one in ids]
    return found


def test_a_prompt_is_where_training_goes_on(chat: ChatFormat, tokenizer: TextTokenizer) -> None:
    said: Said = [*ASKED, ("assistant", "In the harbor")]
    whole, prompt = ids_of(tokenizer, chat, said, True), ids_of(tokenizer, chat, said[:-1], False)
    assert whole[: len(prompt)] == prompt and all(learnt for learnt, _ in whole[len(prompt) :])
    learnt, told = tokenizer.decode([one for _, one in whole[len(prompt) :]]), tokenizer.decode(tokenizer.encode("In the harbor" + chat.stop))
    assert learnt.removeprefix(chat.assistant.prefix) == told.removeprefix(" ") and told.split()[:2] == ["In", "the"]


def test_engines_that_tokenise_the_rendered_text_get_our_ids(chat: ChatFormat, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    (tmp_path / "saved").mkdir()
    tokenizer = tiny.published(chat, tmp_path)
    tokenizer.save(tmp_path / "saved", template(chat))
    theirs: Any = AutoTokenizer.from_pretrained(tmp_path / "saved")
    messages = [{"role": role, "content": items} for role, items in ASKED]
    found = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    ours = [one for _, one in ids_of(tokenizer, chat, ASKED, False)]
    assert theirs.decode(found) == theirs.decode(ours) == text_of(chat, ASKED)
    assert found == ours


@pytest.mark.parametrize("name", ["llama", "published", "byte-level"])
@pytest.mark.parametrize("form", ["vicuna", "mistral", "caption", "molmo", "blip-2", "idefics2"])
def test_published_training_texts_have_our_ids(name: str, form: str, tmp_path: Path) -> None:
    """LLaVA and others tokenise prompt and answer together; the answer's first token then holds the space before it."""
    chat = CHAT_FORMATS[form]
    tokenizer = TOKENIZERS[name](chat, tmp_path)
    said: Said = [("user", "How many ships?"), ("assistant", "Three ships")]
    together = [
        one
        for known, part in tokenizer.split_controls(text_of(chat, said, True), dict.fromkeys((*chat.controls, chat.end)))
        for one in ([tokenizer.control(part)] if known else tokenizer.encode(part))
    ]
    assert [one for _, one in ids_of(tokenizer, chat, said, True)] == together


def test_an_unknown_format_names_the_choices() -> None:
    with pytest.raises(Refused, match=r"model/chat-format at model\.chat\n  found:   'chatlm'\n  allowed: turns, chatml, chatml-bare, .*\n.*'chatml'"):
        chat_format("chatlm")
    assert chat_format("plain") is CHAT_FORMATS["plain"]
