"""Tokenizers: trained by the recipe (byte-level BPE) or read from a checkpoint; text of samples can never write a control token."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from sightline.errors import Problem, Refused
from sightline.lineage import sha256_bytes, write_json, write_text
from sightline.model.chat import ChatFormat

PAD = "<|pad|>"
_MEMO, _MEMO_SIGNS = 200_000, 16 << 20
"""Texts whose ids are remembered, and their characters: clients of a server may send any."""


class TextTokenizer:
    """A `tokenizer.json` with its end and pad tokens. `controls`: further tokens that no text of a sample may write; `reads_padding`: see `load`.

    Encoding of repeated texts is remembered.
    """

    def __init__(self, document: str, end: str, pad: str, place: str = "tokenizer", controls: Iterable[str] = (), reads_padding: bool = False) -> None:
        self.document = document
        self.end, self.pad = end, pad
        try:
            self._tokenizer = Tokenizer.from_str(_as_special(document, {end, pad, *controls}))
        except Exception as error:  # tokenizers raises nothing narrower
            raise Refused(
                Problem(code="model/broken-tokenizer", place=place, found=str(error), allowed="a tokenizer.json that tokenizers reads", fix="fetch it again")
            ) from None
        self._tokenizer.encode_special_tokens = True
        self._memo: dict[str, list[int]] = {}
        self._memo_signs = 0
        self.hash = sha256_bytes(document.encode())
        problems = []
        if self._tokenizer.token_to_id(end) is None:
            problems.append(
                Problem(
                    code="model/no-end-token",
                    place=place,
                    found=f"no token {end!r}",
                    allowed="a tokenizer that has the chat format's end token",
                    fix="choose the chat format of this tokenizer",
                )
            )
        if self._tokenizer.token_to_id(pad) is None:
            problems.append(
                Problem(
                    code="model/no-pad-token",
                    place=place,
                    found=f"no token {pad!r}",
                    allowed="a pad token in the vocabulary",
                    fix="name an existing token as pad",
                )
            )
        if end == pad and not reads_padding:
            problems.append(
                Problem(
                    code="model/pad-is-end",
                    place=place,
                    found=f"pad and end are both {end!r}",
                    allowed="two different tokens: otherwise the end is masked away and the model never stops",
                    fix="name another pad token in tokenizer_config.json, for example an unused special token",
                )
            )
        added = {token.content for token in self._tokenizer.get_added_tokens_decoder().values()}
        problems += [
            Problem(
                code="model/control-is-a-word",
                place=place,
                found=f"{token!r} is an ordinary word of the vocabulary",
                allowed="an added token, which no text can write",
                fix="list it under added_tokens",
            )
            for token in dict.fromkeys((end, *controls))
            if token not in added and self._tokenizer.token_to_id(token) is not None
        ]
        if problems:
            raise Refused(problems)
        self.end_id, self.pad_id = self.control(end), self.control(pad)

    @property
    def size(self) -> int:
        """Rows that an embedding needs: largest id + 1."""
        return max(self.vocabulary().values()) + 1

    @cached_property
    def spaces(self) -> bool:
        """Whether every text begins with a space of the tokenizer's own, as with sentencepiece."""
        return self.piece(self.encode("x")[0]).startswith(" ")

    def control(self, token: str) -> int:
        """Id of a control token; Refused where the tokenizer lacks it."""
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise Refused(
                Problem(
                    code="model/no-control-token",
                    place="tokenizer",
                    found=f"no token {token!r}",
                    allowed="the control tokens of chat format, layout and codec",
                    fix="use the chat format and the codec this tokenizer was made for",
                )
            )
        return found

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; the name of a control token inside it is text."""
        found = self._memo.get(text)
        if found is None:
            found = self._tokenizer.encode(text, add_special_tokens=False).ids
            if len(self._memo) < _MEMO and self._memo_signs + len(text) <= _MEMO_SIGNS:
                self._memo[text] = found
                self._memo_signs += len(text)
        return found

    def decode(self, ids: Iterable[int], controls: bool = False) -> str:
        """Text of ids; control tokens are left out unless asked for."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=not controls)

    def piece(self, token: int) -> str:
        """One token as it stands in a text, its leading space included; the name of a control token."""
        before = len(self.decode([self.end_id], controls=True))
        return self.decode([self.end_id, token], controls=True)[before:]

    def vocabulary(self) -> dict[str, int]:
        """Every token as the vocabulary spells it, with its id."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    def split_controls(self, text: str, controls: Iterable[str]) -> list[tuple[bool, str]]:
        """Split a format's text into (is a control token, part)."""
        parts: list[tuple[bool, str]] = [(False, text)]
        for control in controls:
            parts = [piece for known, part in parts for piece in ([(True, part)] if known else _split(part, control))]
        return [(known, part) for known, part in parts if part]

    def save(self, folder: Path, chat_template: str | None = None) -> None:
        """`tokenizer.json` and `tokenizer_config.json`, loadable by transformers' AutoTokenizer."""
        write_text(folder / "tokenizer.json", self.document)
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": self.end,
            "pad_token": self.pad,
            "clean_up_tokenization_spaces": False,
            "add_prefix_space": bool((json.loads(self.document)["pre_tokenizer"] or {}).get("add_prefix_space")),
        }
        write_json(folder / "tokenizer_config.json", settings)
        if chat_template is not None:
            write_text(folder / "chat_template.jinja", chat_template)

    @classmethod
    def load(cls, folder: Path, end: str | None = None, controls: Iterable[str] = (), reads_padding: bool = False) -> TextTokenizer:
        """From a folder in the Hugging Face layout; `end` overrides the end token (the chat format's), `controls` are the other tokens that the format writes.

        `reads_padding`: padding is read like other tokens and nothing is written, so that it may be the end token.
        """
        place = str(folder / "tokenizer.json")
        if not (folder / "tokenizer.json").is_file():
            raise Refused(
                Problem(
                    code="model/no-tokenizer",
                    place=place,
                    found="no such file",
                    allowed="a fast tokenizer (tokenizer.json)",
                    fix="save the tokenizer with transformers' fast classes",
                )
            )
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")) if (folder / "tokenizer_config.json").is_file() else {}

        def named(key: str) -> str | None:
            value = settings.get(key)
            return value.get("content") if isinstance(value, dict) else value

        end = end or named("eos_token")
        if end is None:
            raise Refused(
                Problem(
                    code="model/no-end-token",
                    place=place,
                    found="no eos_token in tokenizer_config.json",
                    allowed="a tokenizer with an end token",
                    fix="set eos_token, or name the chat format that ends answers",
                )
            )
        return cls((folder / "tokenizer.json").read_text(encoding="utf-8"), end, named("pad_token") or PAD, place, controls, reads_padding)


def _as_special(document: str, controls: set[str]) -> str:
    """The document with these added tokens marked as special: published ones are not always, and only special ones can be kept out of plain text."""
    said = json.loads(document)
    for token in said["added_tokens"]:
        token["special"] = token["special"] or token["content"] in controls
    return json.dumps(said, ensure_ascii=False)


def _split(text: str, control: str) -> list[tuple[bool, str]]:
    parts = text.split(control)
    found: list[tuple[bool, str]] = [(False, parts[0])]
    for part in parts[1:]:
        found += [(True, control), (False, part)]
    return found


def train_tokenizer(texts: Iterable[str], size: int, chat: ChatFormat, others: Iterable[str] = ()) -> TextTokenizer:
    """Byte-level BPE (Sennrich et al. 2016; GPT-2's bytes) with the chat format's control tokens, `others` of a layout or a text side, and a pad token of its own.

    Every text begins with a space that decoding takes away again, so that a word is the same token at the start of an answer and inside a text; a leading space of
    a text's own is therefore not kept.
    `size` is an upper bound of the vocabulary, control tokens included; at least 256 bytes + controls.
    """
    controls = [PAD, *dict.fromkeys((*chat.controls, *others, chat.end))]
    if size < 256 + len(controls):
        raise Refused(
            Problem(
                code="model/vocabulary-too-small",
                place="model.tokenizer.size",
                found=str(size),
                allowed=f">= {256 + len(controls)} (256 bytes and {len(controls)} control tokens)",
                fix="raise model.tokenizer.size",
            )
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in controls],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return TextTokenizer(tokenizer.to_str(), chat.end, PAD, controls=controls)
