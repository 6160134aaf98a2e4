"""Language models: transformers causal and encoder-decoder models behind one door."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from sightline.kinds import Config, Family
from sightline.model import hub_layout

if TYPE_CHECKING:
    from torch import nn

    from sightline.model.language_modules import CausalLanguageModel
    from sightline.model.seq2seq_modules import EncoderDecoderLanguageModel

LANGUAGE_MODEL = Family("language_model", default="transformers")

_TOY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "initializer_range": 0.09,
    "ffn_dim": 128,
    "word_embed_proj_dim": 64,
    "d_model": 64,
    "d_ff": 128,
    "d_kv": 16,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "vocab_size": 600,
}
"""Sizes of a twin, for the keys that a block states."""


class LanguageModel(Config):
    """What every kind of language model says and offers. The module embeds ids, runs the decoder (`hidden`), and turns rows into logits."""

    width_key: ClassVar[str] = "hidden_size"
    """Key of the block that holds D."""
    checkpoint: str | None = None
    """Folder or cached hub name in the Hugging Face layout; None = random weights from `config`."""
    config: dict[str, Any] | None = None
    """The published config block; needed without a checkpoint. `vocab_size` may be left out when the tokenizer is trained by the recipe."""
    attention: Literal["eager", "sdpa"] = "sdpa"
    """Attention backend; eager is faster for small models on CPU in bfloat16."""

    @property
    def grid_positions(self) -> bool:
        """Positions are (time, row, column) instead of one number."""
        return False

    @property
    def start_id(self) -> int | None:
        """Id with which a decoder begins that does not hold the prompt."""
        return None

    def block(self) -> dict[str, Any]:
        """The config as plain data (the text part of a composite)."""
        block = hub_layout.config_block(self.checkpoint, self.config, "language_model", sub="text_config")
        return hub_layout.completed(block, (self.width_key,), "language_model")

    def resolve(self, vocabulary: int | None = None, control: Callable[[str], int] | None = None) -> Self:
        """The Config with the checkpoint's block copied in, `vocab_size` from a trained tokenizer where given; `control` gives the id of a control token."""
        block = dict(self.block())
        if vocabulary is not None and not self.checkpoint:
            # ids of a published tokenizer mean nothing in a trained one: ends are said by the chat format
            block |= {"vocab_size": vocabulary, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
        return self.model_copy(update={"config": block})

    def width(self) -> int:
        """D."""
        return self.block()[self.width_key]

    def twin(self) -> Self:
        """Same class at toy size, random weights."""
        block = dict(self.block())
        heads, keys = block.get("num_attention_heads"), block.get("num_key_value_heads")
        block |= {key: value for key, value in _TOY.items() if key in block or key in ("initializer_range", "vocab_size")}
        if keys is not None:
            block["num_key_value_heads"] = 4 if keys == heads else 2
        for absent in ("sliding_window", "layer_types", "max_window_layers"):
            block.pop(absent, None)
        return self.model_copy(update={"checkpoint": None, "config": block})

    def build(self) -> nn.Module:
        """The module; random weights, or the checkpoint's where it is at hand."""
        raise NotImplementedError


@LANGUAGE_MODEL.add
class LanguageModelConfig(LanguageModel):
    """A transformers causal language model."""

    kind: Literal["transformers"] = "transformers"
    extra_rows: int = Field(default=0, ge=0)
    """Rows of the input embedding beyond `vocab_size`, for tokens that are read and never written (Mllama 8, Molmo 128)."""
    sections: tuple[int, int, int] | None = None
    """Positions on a grid: how many of the rotary frequencies turn with time, row and column (Qwen2-VL, section 2.1: 16, 24, 24); None = positions on a line."""

    @property
    def grid_positions(self) -> bool:
        """Positions are (time, row, column) instead of one number."""
        return self.sections is not None

    def twin(self) -> LanguageModelConfig:
        """Same class at toy size, random weights."""
        return super().twin().model_copy(update={"sections": (2, 3, 3) if self.sections else None})

    def build(self) -> CausalLanguageModel:
        """The module; random weights, or the checkpoint's where it is at hand."""
        from sightline.model.language_modules import CausalLanguageModel

        return CausalLanguageModel(self)


@LANGUAGE_MODEL.add
class EncoderDecoderConfig(LanguageModel):
    """A transformers encoder-decoder (T5, Flan-T5): the fusion `encoder-decoder` puts the prompt before its encoder."""

    width_key: ClassVar[str] = "d_model"
    kind: Literal["encoder-decoder"] = "encoder-decoder"
    tied: bool | None = None
    """Whether words are written with the embeddings they are read with; None = as the class has it, which ties T5's whatever its config says. Flan-T5's are not."""

    @property
    def start_id(self) -> int | None:
        """T5 starts with its pad token."""
        return self.block().get("decoder_start_token_id", 0)

    def resolve(self, vocabulary: int | None = None, control: Callable[[str], int] | None = None) -> EncoderDecoderConfig:
        """As for others; the start token stays id 0, which every tokenizer has."""
        found = super().resolve(vocabulary, control)
        return (
            found.model_copy(update={"config": {**(found.config or {}), "pad_token_id": 0, "decoder_start_token_id": 0}}) if vocabulary is not None else found
        )

    def build(self) -> EncoderDecoderLanguageModel:
        """The module; random weights, or the checkpoint's where it is at hand."""
        from sightline.model.seq2seq_modules import EncoderDecoderLanguageModel

        return EncoderDecoderLanguageModel(self)
