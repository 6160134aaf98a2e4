"""The config of an exported model: its language model as transformers describes it, and the other parts as Sightline does."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig


class SightlineConfig(PreTrainedConfig):
    """`parts`: encoders, tiler, combine, connector, layout, prompts and widths. `image_token_id`: the token that stands where entries of pictures go."""

    model_type = "sightline_remote_code"
    sub_configs = {"text_config": AutoConfig}  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    has_no_defaults_at_init = True

    def __init__(self, text_config: Any = None, parts: dict[str, Any] | None = None, image_token_id: int = 0, head_bias: bool = False, **others: Any) -> None:
        self.text_config = AutoConfig.for_model(**text_config) if isinstance(text_config, dict) else text_config
        self.parts = parts or {}
        self.image_token_id = image_token_id
        self.head_bias = head_bias
        others.setdefault("tie_word_embeddings", bool(getattr(self.text_config, "tie_word_embeddings", False)))
        super().__init__(**others)
