"""Qwen2-VL in the layout of transformers."""

from __future__ import annotations

from typing import Any, cast

from sightline.model.assembly import ModelConfig
from sightline.model.connector_kinds.merger import MergerConnector
from sightline.model.encoder_kinds.rope_towers import Qwen2VlEncoder
from sightline.model.layouts import FlatLayout
from sightline.model.native.key_rules import Rule, rename
from sightline.model.native.native_format import NativeFormat, TokenId, Written, language_rules, longest, refuse_kinds, text_model, whole_block
from sightline.model.native.picture_settings import settings_of, smart_resize, statistics
from sightline.model.native.published_folder import Published

_START, _END, _IMAGE, _VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"


class Qwen2VlFormat(NativeFormat):
    """model_type qwen2_vl: rotary tower, merger, Qwen2 with positions on a grid."""

    name = "qwen2_vl"
    named = {"image_token": _IMAGE, "video_token": _VIDEO}

    def chat(self, published: Published) -> str:
        """ChatML."""
        return "chatml"

    def read(self, published: Published) -> ModelConfig:
        """The tower's merger is the connector."""
        said, seen = published.config, statistics(published)
        text, vision = dict(said["text_config"]), said["vision_config"]
        rope = {key: value for key, value in text["rope_parameters"].items() if key != "type"}  # older spelling of rope_type
        sections = tuple(rope.pop("mrope_section"))
        merge = vision.get("spatial_merge_size", 2)
        return ModelConfig(
            encoders=[Qwen2VlEncoder(config=vision, mean=seen.mean, std=seen.std).resolve()],
            tiler=smart_resize(published.preprocessor, vision.get("patch_size", 14) * merge),
            connector=MergerConnector(merge=merge),
            layout=FlatLayout(begin=_START, end=_END, film_as="block"),
            language_model=text_model(text | {"model_type": "qwen2", "rope_parameters": rope}, said["tie_word_embeddings"], sections=sections),
            max_tokens=longest(text),
        )

    def write(self, config: ModelConfig, token: TokenId) -> Written:
        """The tower's config holds the language model's width, which its merger leads to."""
        own = {"encoders": ("qwen2-vl",), "tiler": ("smart-resize",), "connector": ("merger",), "language_model": ("transformers",)}
        refuse_kinds(config, self.name, **own)
        tower, language, connector = (cast(Any, part) for part in (config.encoders[0], config.language_model, config.connector))
        text = whole_block(language)
        rope = {**text["rope_parameters"], "mrope_section": list(language.sections or ())}
        block = whole_block(tower) | {"hidden_size": language.width(), "spatial_merge_size": connector.merge}
        said = {
            "model_type": self.name,
            "architectures": ["Qwen2VLForConditionalGeneration"],
            "vision_config": block,
            "text_config": text | {"model_type": "qwen2_vl_text", "rope_parameters": rope},
            "image_token_id": token(_IMAGE),
            "video_token_id": token(_VIDEO),
            "vision_start_token_id": token(_START),
            "vision_end_token_id": token(_END),
            "tie_word_embeddings": text["tie_word_embeddings"],
        }
        assert config.tiler is not None
        cells = {"patch_size": block["patch_size"], "merge_size": connector.merge, "temporal_patch_size": block["temporal_patch_size"]}
        pictures = settings_of(config.tiler, tower, "Qwen2VLImageProcessor") | cells
        return Written(config=said, preprocessor=pictures, processor={"processor_class": "Qwen2VLProcessor"})

    def picture_token(self, config: ModelConfig) -> str:
        """Its own."""
        return _IMAGE

    def placeholder(self, config: ModelConfig) -> str:
        """Between its start and its end: the processor replaces the token in the middle."""
        return f"{_START}{_IMAGE}{_END}"

    def rules(self, config: ModelConfig) -> list[Rule]:
        """As saved, and as the class holds it in memory."""
        tower = config.encoders[0].path + ".tower."
        parts = ("blocks.*", "patch_embed.*")
        return [
            *(rename(tower + part, f"visual.{part}", f"model.visual.{part}") for part in parts),
            rename("connector.*", "visual.merger.*", "model.visual.merger.*"),
            *language_rules(("model.", "model.language_model."), ("lm_head.",)),
        ]
