"""Text encoders of dual towers: joint vectors of pictures and texts (CLIP, SigLIP)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from sightline.kinds import Config, Family
from sightline.model import hub_layout

if TYPE_CHECKING:
    from sightline.model.text_tower_modules import TextTower

TEXT_ENCODER = Family("text_encoder", default="transformers")


@TEXT_ENCODER.add
class TextEncoderConfig(Config):
    """A transformers text tower with pooling and both projections."""

    kind: Literal["transformers"] = "transformers"
    checkpoint: str | None = None
    """Folder or cached hub name; None = random weights from `config`."""
    config: dict[str, Any] | None = None
    """Config block such as clip_text_model's; `vocab_size` may be left out when the tokenizer is trained by the recipe."""
    width: int = Field(default=512, ge=1)
    """E, width of the joint space."""
    texts: Literal["last", "mean"] = "last"
    """Pooling of texts: the last token (CLIP's end token) or the mean."""
    pictures: Literal["mean", "first", "mean-max"] = "mean"
    """Pooling of picture tokens; mean-max concatenates both."""
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """Which loss the scale and bias start for: softmax ln(1/0.07), sigmoid ln(10) and -10 (SigLIP)."""
    tags: bool = False
    """Give single tokens a projection of their own, for the token-word tag term."""
    max_tokens: int = Field(default=77, ge=2)
    """Longer texts are cut here; counted where a data set is checked."""

    def block(self) -> dict[str, Any]:
        """The config as plain data (the text part of a composite)."""
        return hub_layout.config_block(self.checkpoint, self.config, "text_encoder", sub="text_config")

    def resolve(self, vocabulary: int | None = None) -> TextEncoderConfig:
        """The Config with the checkpoint's block copied in, `vocab_size` from a trained tokenizer where given."""
        block = dict(self.block())
        if vocabulary is not None and not self.checkpoint:
            # ids of a published tokenizer mean nothing in a trained one; pooling does not use them
            block |= {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 0}
        return self.model_copy(update={"config": block})

    def build(self, channels: int) -> TextTower:
        """The module for picture tokens of C channels."""
        from sightline.model.text_tower_modules import TextTower

        return TextTower(self, channels)
