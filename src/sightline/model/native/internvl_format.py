"""InternVL in the layout of transformers."""

from __future__ import annotations

from typing import Any, cast

from sightline.errors import Problem, Refused
from sightline.model.assembly import ModelConfig
from sightline.model.connectors import MlpConnector
from sightline.model.encoders import EncoderConfig
from sightline.model.layouts import FlatLayout
from sightline.model.native.key_rules import Rule, rename
from sightline.model.native.native_format import NativeFormat, TokenId, Written, language_rules, longest, refuse_kinds, text_model, whole_block
from sightline.model.native.picture_settings import aspect_grid, settings_of, statistics
from sightline.model.native.published_folder import CONFIG, Published

_START, _END, _IMAGE, _VIDEO = "<img>", "</img>", "<IMG_CONTEXT>", "<video>"


class InternVlFormat(NativeFormat):
    """model_type internvl: InternViT, space-to-depth with a perceptron, a causal language model."""

    name = "internvl"
    named = {"start_image_token": _START, "end_image_token": _END, "context_image_token": _IMAGE, "video_token": _VIDEO}

    def chat(self, published: Published) -> str:
        """ChatML, or InternLM2's."""
        return "chatml-bare" if published.config["text_config"]["model_type"] == "qwen2" else "internvl"

    def read(self, published: Published) -> ModelConfig:
        """Raises Refused for reads and merges that are not made here."""
        said, seen = published.config, statistics(published)
        text, vision = said["text_config"], said["vision_config"]
        layer, strategy = said.get("vision_feature_layer", -1), said.get("vision_feature_select_strategy", "default")
        merge = round(1 / said.get("downsample_ratio", 0.5))
        activation = said.get("projector_hidden_act", "gelu")
        if strategy != "default" or not isinstance(layer, int) or activation != "gelu":
            raise Refused(
                Problem(
                    code="model/native-config",
                    place=str(published.folder / CONFIG),
                    found=f"vision_feature_layer {layer}, vision_feature_select_strategy {strategy}, projector_hidden_act {activation}",
                    allowed="one layer, strategy default, gelu",
                    fix="compose this model in a recipe",
                )
            )
        # with mean pooling the class has no last norm; without it the last norm is part of what layer -1 gives out
        norm = layer == -1 and not vision.get("use_mean_pooling", True)
        side = vision["image_size"][0] if isinstance(vision["image_size"], list) else vision["image_size"]
        return ModelConfig(
            encoders=[EncoderConfig(config=vision, layer=layer, final_norm=norm, mean=seen.mean, std=seen.std).resolve()],
            tiler=aspect_grid(published.preprocessor, side),
            connector=MlpConnector(depth=2, merge=merge, norm=True),
            layout=FlatLayout(begin=_START, end=_END),
            language_model=text_model(text, said["tie_word_embeddings"]),
            max_tokens=longest(text),
        )

    def write(self, config: ModelConfig, token: TokenId) -> Written:
        """With the number of tokens of a tile."""
        own = {"encoders": ("transformers",), "tiler": ("internvl", "whole"), "connector": ("mlp",), "language_model": ("transformers",)}
        refuse_kinds(config, self.name, ("internvl_vision",), **own)
        tower, language, connector = (cast(Any, part) for part in (config.encoders[0], config.language_model, config.connector))
        tiler: Any = config.tiler
        text = whole_block(language)
        tokens = connector.grid(tower.grid(tiler.size, tiler.size)).count
        said = {
            "model_type": self.name,
            "architectures": ["InternVLForConditionalGeneration"],
            "vision_config": whole_block(tower),
            "text_config": text,
            "image_token_id": token(_IMAGE),
            "image_seq_length": tokens,
            "downsample_ratio": 1 / connector.merge,
            "projector_hidden_act": "gelu",
            "vision_feature_layer": tower.layer,
            "vision_feature_select_strategy": "default",
            "tie_word_embeddings": text["tie_word_embeddings"],
        }
        around = {"processor_class": "InternVLProcessor", "image_seq_length": tokens}
        return Written(config=said, preprocessor=settings_of(tiler, tower, "GotOcr2ImageProcessor"), processor=around)

    def picture_token(self, config: ModelConfig) -> str:
        """Its own; the processor writes start and end around them."""
        return _IMAGE

    def rules(self, config: ModelConfig) -> list[Rule]:
        """As saved, and as the class holds it in memory."""
        pairs = (("norm", "layer_norm"), ("layers.0", "linear_1"), ("layers.2", "linear_2"))
        heads = ("multi_modal_projector.", "model.multi_modal_projector.")
        return [
            rename(config.encoders[0].path + ".tower.*", "vision_tower.*", "model.vision_tower.*"),
            *(rename(f"connector.{ours}.*", *(f"{head}{theirs}.*" for head in heads)) for ours, theirs in pairs),
            *language_rules(("language_model.model.", "model.language_model."), ("language_model.lm_head.", "lm_head.")),
        ]
