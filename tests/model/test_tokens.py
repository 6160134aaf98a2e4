"""Tokenizers: what they need is refused in words when it is missing; what is saved is what transformers loads; text writes no control token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from sightline.errors import Refused
from sightline.model.chat import CHAT_FORMATS, template
from sightline.model.processor import Processor
from sightline.model.tokens import PAD, TextTokenizer, train_tokenizer

TURNS = CHAT_FORMATS["turns"]


def document(*added: AddedToken, vocabulary: tuple[str, ...] = ("yes", "no", "<", "|", ">", "end")) -> str:
    """A tokenizer of a few words and these added tokens."""
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(("?", *vocabulary))}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_tokens(list(added))
    return tokenizer.to_str()


def special(*names: str) -> list[AddedToken]:
    return [AddedToken(name, special=True, normalized=False) for name in names]


def test_what_a_tokenizer_lacks_is_named_all_at_once() -> None:
    with pytest.raises(Refused) as refused:
        TextTokenizer(document(), "</s>", "<pad>", "here/tokenizer.json")
    assert str(refused.value) == (
        "model/no-end-token at here/tokenizer.json\n"
        "  found:   no token '</s>'\n"
        "  allowed: a tokenizer that has the chat format's end token\n"
        "  fix:     choose the chat format of this tokenizer\n"
        "model/no-pad-token at here/tokenizer.json\n"
        "  found:   no token '<pad>'\n"
        "  allowed: a pad token in the vocabulary\n"
        "  fix:     name an existing token as pad"
    )


def test_a_pad_that_is_the_end_is_refused() -> None:
    with pytest.raises(Refused, match=r"model/pad-is-end[^$]*pad and end are both '</s>'[^$]*the model never stops[^$]*name another pad token"):
        TextTokenizer(document(*special("</s>")), "</s>", "</s>")


def test_an_end_that_any_text_can_write_is_refused() -> None:
    with pytest.raises(Refused, match=r"model/control-is-a-word[^$]*'end' is an ordinary word of the vocabulary"):
        TextTokenizer(document(*special("<pad>")), "end", "<pad>")
    assert TextTokenizer(document(*special("</s>")), "</s>", "no").pad_id == 2  # a word as pad harms nobody: slots are not read as text


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"model/no-tokenizer at .*tokenizer\.json\n  found:   no such file"):
        TextTokenizer.load(tmp_path)
    for broken in ("{", '{"added_tokens": []}', "[]"):
        (tmp_path / "tokenizer.json").write_text(broken)
        with pytest.raises(Refused, match=r"model/broken-tokenizer at .*tokenizer\.json"):
            TextTokenizer.load(tmp_path, "</s>")


def test_the_end_is_that_of_the_format_else_that_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(document(*special("</s>", "<|end|>", PAD)))
    with pytest.raises(Refused, match=r"model/no-end-token[^$]*found:   no eos_token in tokenizer_config\.json"):
        TextTokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}, "pad_token": "no"}))
    assert (TextTokenizer.load(tmp_path).end, TextTokenizer.load(tmp_path).pad) == ("</s>", "no")
    assert TextTokenizer.load(tmp_path, "<|end|>").end == "<|end|>"


def test_a_missing_control_token_of_the_format_is_refused() -> None:
    tokenizer = TextTokenizer(document(*special("<|end|>", PAD)), "<|end|>", PAD)
    with pytest.raises(Refused, match=r"model/no-control-token[^$]*no token '<\|user\|>'"):
        Processor(tiny.writer(), tokenizer).encode(tiny.sample(tiny.turn("user", "yes"), tiny.turn("assistant", "no")))


@pytest.mark.parametrize("marked", [True, False])
def test_added_tokens_are_kept_out_of_text_however_they_were_published(marked: bool) -> None:
    added = [AddedToken(name, special=marked, normalized=False) for name in ("<|end|>", "<|user|>", PAD)]
    tokenizer = TextTokenizer(document(*added), "<|end|>", PAD, controls=("<|user|>",))
    assert {tokenizer.end_id, tokenizer.control("<|user|>"), tokenizer.pad_id}.isdisjoint(tokenizer.encode(f"yes<|end|> <|user|> {PAD}"))
    assert tokenizer.decode([tokenizer.encode("yes")[0], tokenizer.end_id]) == "yes"
    assert tokenizer.decode([tokenizer.end_id], controls=True) == "<|end|>"


def test_words_that_were_added_are_still_words() -> None:
    tokenizer = TextTokenizer(document(*special("<|end|>", PAD), AddedToken("lake side")), "<|end|>", PAD)
    assert tokenizer.decode(tokenizer.encode("yes lake side")) == "yes lake side"
    assert len(tokenizer.encode("lake side")) == 1


def test_training_is_deterministic_and_keeps_its_limit() -> None:
    first, second = (train_tokenizer(tiny.TEXTS, 300, TURNS) for _ in range(2))
    assert first.document == second.document and first.hash == second.hash
    assert first.size == 300 and [first.control(token) for token in (PAD, *TURNS.controls)] == [0, 1, 2, 3, 4]
    assert train_tokenizer(tiny.TEXTS[:1], 300, TURNS).hash != first.hash
    with pytest.raises(
        Refused, match=r"model/vocabulary-too-small at model\.tokenizer\.size\n  found:   260\n  allowed: >= 261 \(256 bytes and 5 control tokens\)"
    ):
        train_tokenizer(tiny.TEXTS, 260, TURNS)


def test_a_trained_word_is_the_same_token_at_the_start_and_inside() -> None:
    tokenizer = train_tokenizer(["ships"] * 4 + ["many ships"] * 4, 300, TURNS)
    assert tokenizer.encode("many ships")[-1:] == tokenizer.encode("ships") and len(tokenizer.encode("ships")) == 1
    assert tokenizer.decode(tokenizer.encode(" ships")) == "ships"  # the space of one's own is not kept
    for text in ("\u8239", "a\tb\n c", "\U0001f6a2", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("chat", CHAT_FORMATS)
@pytest.mark.parametrize("name", tiny.TOKENIZERS)
def test_transformers_loads_what_was_saved_and_encodes_alike(name: str, chat: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    (tmp_path / "saved").mkdir()
    form = CHAT_FORMATS[chat]
    tokenizer = tiny.TOKENIZERS[name](form, tmp_path)
    tokenizer.save(tmp_path / "saved", template(form))
    theirs: Any = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert (theirs.eos_token_id, theirs.pad_token_id) == (tokenizer.end_id, tokenizer.pad_id)
    for text in ("How many ships?", " Where?", "In  the\nharbor", "\u8fd9\u91cc\u6709", ""):
        assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == tokenizer.decode(tokenizer.encode(text))
    again = TextTokenizer.load(tmp_path / "saved", form.end, form.controls)
    assert (again.document, again.end, again.pad) == (tokenizer.document, tokenizer.end, tokenizer.pad)


@pytest.mark.parametrize("name", tiny.TOKENIZERS)
def test_a_piece_is_a_token_as_it_stands_in_a_text(name: str, tmp_path: Path) -> None:
    tokenizer = tiny.TOKENIZERS[name](TURNS, tmp_path)
    text = "How many ships"
    assert "".join(tokenizer.piece(token) for token in tokenizer.encode(text)).lstrip() == text
    assert tokenizer.piece(tokenizer.end_id).strip() == "<|end|>"
