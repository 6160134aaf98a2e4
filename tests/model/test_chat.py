"""Chat formats: the exact text of each, and the Jinja template that other engines read says the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sightline.errors import Refused
from sightline.model.chat import CHAT_FORMATS, ChatFormat, chat_format, template
from sightline.model.processor import Processor
from sightline.samples.sample import Sample

QWEN = "You are a helpful assistant."
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions."
)
WRITTEN = {
    "turns": "<|user|>How many?<|assistant|>Three.<|end|><|user|>Where?<|assistant|>",
    "chatml": (
        f"<|im_start|>system\n{QWEN}<|im_end|>\n<|im_start|>user\nHow many?<|im_end|>\n"
        "<|im_start|>assistant\nThree.<|im_end|>\n<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"
    ),
    "vicuna": f"<s>{VICUNA} USER: How many? ASSISTANT: Three.</s>USER: Where? ASSISTANT: ",
    "llama-3": (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHow many?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nThree.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhere?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "plain": "<s>How many?Three.</s>Where?",
}
ASKED = tiny.sample(tiny.turn("user", "How many?"), tiny.turn("assistant", "Three."), tiny.turn("user", "Where?"))
CONVERSATIONS = {
    "asked": ASKED,
    "system": tiny.sample(tiny.turn("system", 'It\'s a "test" \\ {{ of }} {% quotes %}\n'), *ASKED.turns),
    "answered": tiny.sample(*ASKED.turns, tiny.turn("assistant", "\u5728 the harbor\n")),
    "nothing asked": tiny.sample(tiny.turn("user", "")),
}


def rendered(chat: ChatFormat, sample: Sample, content: Any = lambda text: text) -> str:
    """The template in the environment that engines use."""
    messages = [{"role": turn.role, "content": content(sample.text(number))} for number, turn in enumerate(sample.turns)]
    jinja = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template(chat))
    return jinja.render(messages=messages, add_generation_prompt=sample.turns[-1].role == "user")


@pytest.fixture(params=CHAT_FORMATS)
def processor(request: pytest.FixtureRequest, tmp_path: Path) -> Processor:
    return Processor(tiny.writer(chat=request.param), tiny.published(CHAT_FORMATS[request.param], tmp_path))


def test_every_format_of_the_table_is_known_by_heart() -> None:
    assert list(WRITTEN) == list(CHAT_FORMATS) == [chat.name for chat in CHAT_FORMATS.values()]


def test_a_prompt_reads_as_written_here(processor: Processor) -> None:
    encoded = processor.encode(ASKED, answer=False)
    assert processor.tokenizer.decode(encoded.ids.tolist(), controls=True) == WRITTEN[processor.chat.name]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_template_says_what_the_processor_says(processor: Processor, name: str) -> None:
    sample, chat = CONVERSATIONS[name], processor.chat
    answered = sample.turns[-1].role == "assistant"
    ours = processor.tokenizer.decode(processor.encode(sample, answer=answered).ids.tolist(), controls=True)
    # what follows the last end token is not learnt, so it is not written here; a template always writes it
    assert rendered(chat, sample) == ours + (chat.assistant.after if answered else "")
    assert rendered(chat, sample, lambda text: [{"type": "text", "text": text}]) == rendered(chat, sample)


def test_engines_that_tokenise_the_rendered_text_get_our_ids(processor: Processor, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    (tmp_path / "saved").mkdir()
    processor.tokenizer.save(tmp_path / "saved", template(processor.chat))
    theirs: Any = AutoTokenizer.from_pretrained(tmp_path / "saved")
    messages = [{"role": turn.role, "content": ASKED.text(number)} for number, turn in enumerate(ASKED.turns)]
    found = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    ours = processor.encode(ASKED, answer=False).ids.tolist()
    assert theirs.decode(found) == theirs.decode(ours)
    # formats that set an answer apart by words only: an engine may join the last of them with the first of the answer
    assert found == ours or processor.chat.name in ("vicuna", "plain")


def test_pictures_are_named_where_a_template_meets_them() -> None:
    text = rendered(CHAT_FORMATS["turns"], tiny.sample(tiny.turn("user", "Where?")), lambda text: [{"type": "image"}, {"type": "text", "text": text}])
    assert text == "<|user|><image>Where?<|assistant|>"


def test_an_unknown_format_names_the_choices() -> None:
    with pytest.raises(Refused, match=r"model/chat-format at model\.chat\n  found:   'chatlm'\n  allowed: turns, chatml, vicuna, llama-3, plain\n.*'chatml'"):
        chat_format("chatlm")
    assert chat_format("plain") is CHAT_FORMATS["plain"]
