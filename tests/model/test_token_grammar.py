"""Grammars in tokens: bytes of every vocabulary, the walk of all tokens against one by one, and the room that an answer has."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tiny_models as tiny
from tokenizers import AddedToken, Tokenizer, decoders, models

from sightline.errors import Refused
from sightline.model.chat import CHAT_FORMATS
from sightline.model.token_grammar import Guide, TokenGrammar, Vocabulary, token_bytes, token_grammar
from sightline.model.tokens import PAD, TextTokenizer, train_tokenizer
from sightline.samples.codec_table import CODEC
from sightline.samples.codecs import Codec
from sightline.samples.grammar import DEAD, Automaton

CHAT = CHAT_FORMATS["turns"]


def fallback(folder: Path) -> TextTokenizer:
    """Pieces with a space of their own, and bytes for what they lack, as Llama's vocabulary is read."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "\u2581{", "{", "12", "},", "\u2581ship", "\u8239"]
    tokenizer = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (PAD, *CHAT.controls, CHAT.end)])
    return TextTokenizer(tokenizer.to_str(), CHAT.end, PAD, controls=CHAT.controls)


def tokenizer(kind: str, folder: Path) -> TextTokenizer:
    return fallback(folder) if kind == "fallback" else tiny.TOKENIZERS[kind](CHAT, folder)


def codec(kind: str) -> Codec:
    return cast(Codec, CODEC.parse({"kind": kind}))


@pytest.mark.parametrize("kind", ["byte-level", "published", "metaspace", "fallback"])
def test_bytes_are_those_of_the_text(kind: str, tmp_path: Path) -> None:
    """Of any two tokens, behind a word: what the decoder writes."""
    words = tokenizer(kind, tmp_path)
    found = token_bytes(words)
    known = [number for number, text in enumerate(found) if text is not None and words.vocabulary().get("<unk>") != number]
    assert len(known) > 100 and found[words.end_id] is None
    start, rng = next(number for number in known if found[number] == b"x"), np.random.default_rng(1)
    for pair in rng.choice(known, (300, 2)).tolist():
        text = b"x" + b"".join(found[number] or b"" for number in pair)
        if (told := text.decode(errors="replace")) == text.decode(errors="ignore"):  # decoders differ in what they make of half a character
            assert words.decode([start, *pair]) == told, pair


def test_words_with_spaces_between_them_have_no_bytes(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="model/tokens-without-bytes"):
        token_bytes(tokenizer("words", tmp_path))


@pytest.mark.parametrize("kind", ["xyhwt", "geochat", "molmo", "ferret"])
def test_the_walk_of_all_tokens_is_that_of_each(kind: str) -> None:
    rng = np.random.default_rng(2)
    signs = ["{", "}", "<", ">", ",", "|", "[", "]", "<p>", "</p> {", "ship", " ", "12", "0", "5", '="', "x", "points", "\u8239", "-", "{<", ", {", "."]
    tokens: list[bytes | None] = [bytes((byte,)) for byte in range(256)] + [None, b"", b"a" * 100]
    tokens += ["".join(rng.choice(signs, rng.integers(1, 5))).encode() for _ in range(1500)]
    vocabulary, grammar = Vocabulary(tokens), codec(kind).grammar()
    assert grammar is not None
    automaton = Automaton(grammar.start)
    state = 0
    for _ in range(60):
        ids, after = vocabulary.walk(automaton, state)
        expected = {}
        for number, text in enumerate(tokens):
            reached = state
            for byte in text or b"":
                reached = automaton.after(reached, byte) if reached != DEAD else DEAD
            if text and len(text) <= 64 and reached != DEAD:
                expected[number] = reached
        assert dict(zip(ids.tolist(), after.tolist(), strict=True)) == expected and len(ids) == len(expected)
        state = int(rng.choice(after)) if len(after) else 0


def made(kind: str, words: TextTokenizer, **changes: Any) -> TokenGrammar:
    grammar = codec(kind).grammar()
    assert grammar is not None
    return TokenGrammar(Vocabulary(token_bytes(words)), words, grammar, **changes)


def test_the_end_follows_a_whole_answer_only() -> None:
    words = train_tokenizer(["{12,}"], 300, CHAT)
    grammar = made("xyhwt", words)
    guide = Guide(grammar=grammar, room=40)
    for token in [*words.encode("{1,2,3,4,5}"), words.end_id]:
        assert (words.end_id in guide.allowed()) == (token == words.end_id)
        guide.take(token)
    assert grammar.left(guide.state) == 0 and not guide.closed


def test_a_text_that_ends_answers_is_written_out() -> None:
    words = train_tokenizer(["{12,}"], 300, CHAT)
    grammar = made("xyhwt", words, prefix="\n", stop="###")
    state = 0
    for byte in b" \n{1,2,3,4,5}":
        state = grammar.automaton.after(state, byte)
    assert grammar.left(state) == 0 and words.end_id not in grammar.allowed(state).ids
    for byte in b"##":
        state = grammar.automaton.after(state, byte)
    assert {words.piece(token) for token in grammar.allowed(state).ids.tolist()} == {"#"} and grammar.left(state) == 0


def test_an_answer_is_brought_to_its_end_while_there_is_room() -> None:
    """One token a sign: after `{1,2,3,4,5}` another box does not fit, and is not begun."""
    words = train_tokenizer([""], 256 + 3 + len(CHAT.controls), CHAT)
    guide = Guide(grammar=made("xyhwt", words), room=20)
    for sign in "{1,2,3,4,5}":
        token = next(one for one in guide.allowed().tolist() if words.piece(one) == sign)
        assert token in guide.fitting(guide.allowed().tolist().index(token))
        guide.take(token)
    wanted = [words.piece(one) for one in guide.allowed().tolist()]
    assert "," in wanted and guide.room == 9 and not guide.pressed
    assert guide.fitting(wanted.index(",")).tolist() == [words.end_id] and guide.pressed and guide.closed
    with pytest.raises(Refused, match=r"model/no-room[^$]*at least 11"):
        Guide(grammar=made("xyhwt", words), room=10)


def test_what_cannot_be_said_is_refused(tmp_path: Path) -> None:
    """A vocabulary without a bracket, a model without a codec."""
    with pytest.raises(Refused, match=r"model/vocabulary-cannot-say[^$]*'\{'"):
        made("xyhwt", tokenizer("metaspace", tmp_path))
    words = train_tokenizer(tiny.TEXTS, 320, CHAT)
    _, processor = tiny.built(tiny.writer(), words)
    with pytest.raises(Refused, match="model/no-codec"):
        token_grammar(processor, "regions")
