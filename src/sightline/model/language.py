"""Language models: transformers causal models behind one door."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from sightline.kinds import Config, Family
from sightline.model import hub_layout

if TYPE_CHECKING:
    from sightline.model.language_modules import CausalLanguageModel

LANGUAGE_MODEL = Family("language_model", default="transformers")


@LANGUAGE_MODEL.add
class LanguageModelConfig(Config):
    """A transformers causal language model."""

    kind: Literal["transformers"] = "transformers"
    checkpoint: str | None = None
    """Folder or cached hub name in the Hugging Face layout; None = random weights from `config`."""
    config: dict[str, Any] | None = None
    """The published config block; needed without a checkpoint. `vocab_size` may be left out when the tokenizer is trained by the recipe."""
    attention: Literal["eager", "sdpa"] = "sdpa"
    """Attention backend; eager is faster for small models on CPU in bfloat16."""

    def block(self) -> dict[str, Any]:
        """The config as plain data (the text part of a composite)."""
        block = hub_layout.config_block(self.checkpoint, self.config, "language_model", sub="text_config")
        return hub_layout.completed(block, ("hidden_size",), "language_model")

    def resolve(self, vocabulary: int | None = None) -> LanguageModelConfig:
        """The Config with the checkpoint's block copied in, `vocab_size` from a trained tokenizer where given."""
        block = dict(self.block())
        if vocabulary is not None and not self.checkpoint:
            # ids of a published tokenizer mean nothing in a trained one: ends are said by the chat format
            block |= {"vocab_size": vocabulary, "bos_token_id": None, "eos_token_id": None}
        return self.model_copy(update={"config": block})

    def width(self) -> int:
        """D."""
        return self.block()["hidden_size"]

    def build(self) -> CausalLanguageModel:
        """The module; random weights, or the checkpoint's where it is at hand."""
        from sightline.model.language_modules import CausalLanguageModel

        return CausalLanguageModel(self)
