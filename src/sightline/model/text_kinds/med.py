"""The multimodal mixture of encoder and decoder (BLIP, Li et al. 2022, https://arxiv.org/abs/2201.12086, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from sightline.errors import Problem, Refused
from sightline.model.language import LanguageModel
from sightline.model.text_tower import check_length, named_ids

if TYPE_CHECKING:
    from sightline.model.text_kinds.med_modules import Med

_CHANNELS = 32
"""C of toy encoders."""


class MedText(LanguageModel):
    """A text transformer that compares texts with pictures, matches them, and tells them; as a language model it writes captions and answers.

    embed: bi-directional, from the first token `begin`. match: the same layers with cross-attention to the picture, from the first token `encode`.
    tell: causal with cross-attention, from the first token `decode`. question: the layers of match as the encoder of a question, whose hidden states the decoder reads.
    """

    kind: Literal["med"] = "med"
    modes: tuple[Literal["embed", "match", "tell", "question"], ...] = ("embed", "match", "tell")
    """What it is built for: an encoder for embed, match and question, a decoder for tell."""
    share: Literal["all-but-self-attention", "none"] = "all-but-self-attention"
    """What encoder and decoder have in common: the layers of both, apart from self-attention (the paper), or nothing (the published answerer of questions)."""
    joint: int = Field(default=256, ge=1)
    """E, width of the joint space."""
    begin: str = "[CLS]"
    """First token of a text by itself."""
    encode: str = "[ENC]"
    """First token of a text that is matched with a picture, or of a question."""
    decode: str = "[DEC]"
    """First token of a text that is told."""
    ids: dict[str, int] = Field(default_factory=dict)
    """Ids of these tokens; filled in where the tokenizer is known."""
    max_tokens: int = Field(default=30, ge=3)
    """Longer side texts are cut here, first and end token included."""

    @model_validator(mode="after")
    def _some_mode(self) -> MedText:
        if not self.modes or len(set(self.modes)) < len(self.modes):
            raise ValueError("`modes` names at least one of embed, match, tell, question, each once")
        if "question" in self.modes and "tell" not in self.modes:
            raise ValueError("a question is read by the decoder: add tell to `modes`")
        return self

    @property
    def abilities(self) -> tuple[str, ...]:
        """What it offers beside writing."""
        return tuple(mode for mode in self.modes if mode != "question")

    @property
    def controls(self) -> tuple[str, ...]:
        """Tokens that its tokenizer must hold."""
        return (self.begin, self.encode, self.decode)

    @property
    def start_id(self) -> int | None:
        """Id of `decode`: what its decoder begins with."""
        return self.ids.get(self.decode)

    def resolve(self, vocabulary: int | None = None, control: Callable[[str], int] | None = None) -> MedText:
        """As for others; `control` gives the id of a control token in its tokenizer. Refused where the config is of another class or knows too few positions."""
        block = self.block()
        if block["model_type"] != "blip_text_model":
            raise Refused(
                Problem(
                    code="model/unknown-text-side",
                    place="med.config",
                    found=repr(block["model_type"]),
                    allowed="blip_text_model",
                    fix="use a config of this class, or another kind of text encoder",
                )
            )
        check_length(self.max_tokens, block, "med")
        return super().resolve(vocabulary).model_copy(update={"ids": named_ids(self.controls, control, self.ids)})

    def twin(self) -> MedText:
        """Same structure at toy size, random weights."""
        found = super().twin()
        toy = {"encoder_hidden_size": _CHANNELS, "max_position_embeddings": 128, "bos_token_id": None, "eos_token_id": None}
        block = {**(found.config or {}), **toy}
        return found.model_copy(update={"config": block, "joint": min(self.joint, 16)})

    def build(self, channels: int | None = None) -> Med:
        """The module for picture tokens of C channels; default is what its config says of the encoder."""
        from sightline.model.text_kinds.med_modules import Med

        return Med(self, channels)
