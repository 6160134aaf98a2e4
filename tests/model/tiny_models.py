"""Tiny tokenizers, pictures, samples and models that the tests of this folder share. Everything is random, seeded and built in milliseconds."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from sightline.lineage import sha256_bytes
from sightline.model.assembly import ModelConfig
from sightline.model.chat import CHAT_FORMATS, ChatFormat
from sightline.model.connectors import MlpConnector
from sightline.model.encoders import EncoderConfig
from sightline.model.language import LanguageModelConfig
from sightline.model.packing import Encoded
from sightline.model.processor import Processor
from sightline.model.tiling import WholeTiler
from sightline.model.tokens import PAD, TextTokenizer, train_tokenizer
from sightline.model.vlm import Model
from sightline.samples.sample import Origin, Picture, Sample, Show, Text, Turn

TEXTS = (
    "How many ships? Three ships.",
    "Where? In the harbor.",
    "A curious user asks; the assistant answers: yes, no, none.",
    "\u8fd9\u91cc\u6709\u51e0\u8258\u8239\uff1f \u4e09\u8258\u8239\u3002",
    "USER: user ASSISTANT: assistant system say twice\n\n",
    " ".join(control for chat in CHAT_FORMATS.values() for control in (*chat.controls, *(word for word in (chat.default_system or "").split()))),
)
CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}


def _controls(chat: ChatFormat) -> list[AddedToken]:
    return [AddedToken(token, special=True, normalized=False) for token in (PAD, *dict.fromkeys((*chat.controls, chat.end)))]


def byte_level(chat: ChatFormat, folder: Path) -> TextTokenizer:
    """What a recipe trains."""
    return train_tokenizer(TEXTS, 320, chat)


def words(chat: ChatFormat, folder: Path) -> TextTokenizer:
    """Words, punctuation and line ends, each a token; decoding puts spaces between them."""
    splitter = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]|\n"), "removed", invert=True)
    known = dict.fromkeys(word for text in TEXTS for word, _ in splitter.pre_tokenize_str(text))
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(["[unknown]", *known])}, unk_token="[unknown]"))
    tokenizer.pre_tokenizer = splitter  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens(_controls(chat))
    return TextTokenizer(tokenizer.to_str(), chat.end, PAD, controls=chat.controls)


def published(chat: ChatFormat, folder: Path) -> TextTokenizer:
    """A byte-level BPE without a leading space, saved by transformers and read back."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=_controls(chat), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=chat.end, pad_token=PAD).save_pretrained(folder)
    return TextTokenizer.load(folder, chat.end, chat.controls)


def metaspace(chat: ChatFormat, folder: Path) -> TextTokenizer:
    """A unigram model whose texts begin with a space, as sentencepiece makes them."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFC()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens(_controls(chat))
    return TextTokenizer(tokenizer.to_str(), chat.end, PAD, controls=chat.controls)


TOKENIZERS: dict[str, Callable[[ChatFormat, Path], TextTokenizer]] = {
    "byte-level": byte_level,
    "words": words,
    "published": published,
    "metaspace": metaspace,
}


def picture(seed: int = 0, width: int = 20, height: int = 12) -> Picture:
    """A picture of noise."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(stream, "PNG")
    data = stream.getvalue()
    return Picture(hash=sha256_bytes(data), width=width, height=height, data=data)


def turn(role: Any, *items: str | int, weight: float = 1.0) -> Turn:
    """A turn of texts and picture numbers."""
    return Turn(role=role, items=tuple(Text(text=item) if isinstance(item, str) else Show(picture=item) for item in items), weight=weight)


def sample(*turns: Turn, pictures: Sequence[Picture] = (), independent: bool = False) -> Sample:
    """A sample of these turns."""
    return Sample(
        id="s", pictures=tuple(pictures), turns=turns, attributes={"turns": "independent"} if independent else {}, origin=Origin(source="test", row="7")
    )


def language(model_type: str = "llama", attention: Any = "eager", **changes: Any) -> LanguageModelConfig:
    """A language model of two small layers."""
    block = {
        "model_type": model_type,
        "vocab_size": 400,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    return LanguageModelConfig(config=block | changes, attention=attention)


def writer(model_type: str = "llama", attention: Any = "eager", chat: str = "turns", **changes: Any) -> ModelConfig:
    """CLIP, a perceptron of two layers, and a language model."""
    said: dict[str, Any] = {
        "encoders": [EncoderConfig(config=CLIP, layer=-2)],
        "tiler": WholeTiler(size=16),
        "connector": MlpConnector(),
        "language_model": language(model_type, attention),
        "chat": chat,
    }
    return ModelConfig(**(said | changes))


def built(config: ModelConfig, tokenizer: TextTokenizer, seed: int = 0) -> tuple[Model, Processor]:
    """Random weights, and the processor that belongs to them."""
    torch.manual_seed(seed)
    return Model(config).eval(), Processor(config, tokenizer)


def supervised(encoded: Encoded) -> list[int]:
    """Places of the tokens that are learnt: one after the place that predicts."""
    return [int(place) + 1 for place in encoded.answers]


def answers_of(processor: Processor, encoded: Encoded) -> list[str]:
    """Decoded learnt runs, cut after each end token, which is left out."""
    found: list[list[int]] = [[]]
    for target in encoded.targets.tolist():
        if target == processor.tokenizer.end_id:
            found.append([])
        else:
            found[-1].append(target)
    assert found[-1] == [], "the last answer has no end token"
    return [processor.tokenizer.decode(run) for run in found[:-1]]


def spaceless(texts: Iterable[str]) -> list[str]:
    """Texts without white space, for tokenizers that do not keep it."""
    return ["".join(text.split()) for text in texts]
