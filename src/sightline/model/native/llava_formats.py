"""LLaVA and LLaVA-NeXT in the layout of transformers, with a CLIP or SigLIP tower, or with Pixtral's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from sightline.errors import Problem, Refused
from sightline.model.assembly import ModelConfig
from sightline.model.connectors import MlpConnector
from sightline.model.encoder_kinds.rope_towers import PixtralEncoder
from sightline.model.encoders import EncoderConfig, VisionEncoder
from sightline.model.layout_kinds.merged_layout import MergedLayout
from sightline.model.layout_kinds.rows_layout import RowsLayout
from sightline.model.layouts import FlatLayout, Layout
from sightline.model.native.key_rules import Rule, rename
from sightline.model.native.native_format import NativeFormat, TokenId, Written, language_rules, longest, refuse_kinds, text_model, whole_block
from sightline.model.native.picture_settings import max_side, pinpoints, settings_of, statistics, whole_picture
from sightline.model.native.published_folder import CONFIG, Published
from sightline.model.tiling import Tiler

_TOWERS = ("clip_vision_model", "siglip_vision_model", "pixtral")
_IMAGE = "<image>"
_ROW_IMAGE, _ROW_BREAK, _ROW_END = "[IMG]", "[IMG_BREAK]", "[IMG_END]"


class LlavaFormat(NativeFormat):
    """model_type llava: one tower, two linear layers, a causal language model."""

    name = "llava"
    image_processor = "CLIPImageProcessor"
    processor_class = "LlavaProcessor"
    architecture = "LlavaForConditionalGeneration"

    def recognises(self, config: Mapping[str, Any]) -> bool:
        """A config of transformers' class; the original repositories use the same name without a vision_config."""
        return config.get("model_type") == self.name and "vision_config" in config

    def read(self, published: Published) -> ModelConfig:
        """Tower, perceptron of depth 2, language model. Raises Refused for towers, activations and reads that are not made here."""
        said = published.config
        self._refuse_unknown(said, str(published.folder / CONFIG))
        text = said["text_config"]
        tower = self._tower(published)
        return ModelConfig(
            encoders=[tower],
            tiler=self._tiler(published),
            connector=MlpConnector(depth=2, bias=said.get("multimodal_projector_bias", True)),
            layout=self._layout(published),
            language_model=text_model(text, said["tie_word_embeddings"]),
            max_tokens=longest(text),
        )

    def _refuse_unknown(self, said: dict[str, Any], place: str) -> None:
        tower, strategy = said["vision_config"]["model_type"], said.get("vision_feature_select_strategy", "default")
        activation = said.get("projector_hidden_act", "gelu")
        wrong = [
            (f"vision_config.model_type: {tower}", " or ".join(_TOWERS), tower not in _TOWERS),
            (f"projector_hidden_act: {activation}", "gelu", activation != "gelu"),
            (f"vision_feature_select_strategy: {strategy} of a {tower}", "full: it has no class token", strategy == "default" and tower != _TOWERS[0]),
        ]
        problems = [
            Problem(code="model/native-config", place=place, found=found, allowed=allowed, fix="compose this model in a recipe")
            for found, allowed, is_wrong in wrong
            if is_wrong
        ]
        if problems:
            raise Refused(problems)

    def _tower(self, published: Published) -> VisionEncoder:
        said, seen = published.config, statistics(published)
        layer = said.get("vision_feature_layer", -2)
        kind = PixtralEncoder if said["vision_config"]["model_type"] == "pixtral" else EncoderConfig
        return kind(
            config=said["vision_config"],
            layer=tuple(layer) if isinstance(layer, list) else layer,
            tokens="patches" if said.get("vision_feature_select_strategy", "default") == "default" else "all",
            mean=seen.mean,
            std=seen.std,
        ).resolve()

    def _tiler(self, published: Published) -> Tiler:
        tower = published.config["vision_config"]
        if tower["model_type"] == "pixtral":
            return max_side(published.preprocessor, tower["patch_size"])
        return whole_picture(published.preprocessor, tower.get("image_size", 224))

    def _layout(self, published: Published) -> Layout:
        if published.config["vision_config"]["model_type"] != "pixtral":
            return FlatLayout()
        said = published.processor
        return RowsLayout(row_end=said.get("image_break_token", _ROW_BREAK), end=said.get("image_end_token", _ROW_END), last_row="end")

    def chat(self, published: Published) -> str:
        """By language model: Vicuna's for Llama."""
        said = published.config
        text = said["text_config"]["model_type"]
        if said["vision_config"]["model_type"] == "pixtral":
            return "pixtral"
        return {"mistral": "mistral", "qwen2": "chatml"}.get(text, "vicuna")

    def write(self, config: ModelConfig, token: TokenId) -> Written:
        """config.json of the tower, the language model and what stands between them."""
        self._refuse_parts(config)
        tower: Any = config.encoders[0]
        language, connector = cast(Any, config.language_model), cast(Any, config.connector)
        rows = config.layout if isinstance(config.layout, RowsLayout) else None
        image = self.picture_token(config)
        strategy = "default" if tower.tokens == "patches" else "full"
        layer = list(tower.layer) if isinstance(tower.layer, tuple) else tower.layer
        block = whole_block(tower)
        said = {
            "model_type": self.name,
            "architectures": [self.architecture],
            "vision_config": block,
            "text_config": whole_block(language),
            "image_token_index": token(image),
            "projector_hidden_act": "gelu",
            "multimodal_projector_bias": connector.bias,
            "vision_feature_layer": layer,
            "vision_feature_select_strategy": strategy,
            "tie_word_embeddings": whole_block(language)["tie_word_embeddings"],
        }
        tiler: Any = config.tiler
        if not rows:
            said["image_seq_length"] = tower.grid(tiler.size, tiler.size).count
        around = {"processor_class": self.processor_class, "patch_size": block["patch_size"], "image_token": image, "vision_feature_select_strategy": strategy}
        if rows:
            around |= {"processor_class": "PixtralProcessor", "image_break_token": rows.row_end, "image_end_token": rows.end}
        elif block["model_type"] == _TOWERS[0]:
            around |= {"num_additional_image_tokens": 1}
        pictures = settings_of(tiler, tower, "PixtralImageProcessor" if rows else self._processor(tiler))
        return Written(config=said, preprocessor=pictures, processor=around)

    def _processor(self, tiler: Tiler) -> str:
        return "LlavaImageProcessor" if getattr(tiler, "fit", "") == "pad" else self.image_processor

    def _refuse_parts(self, config: ModelConfig) -> None:
        own = {"encoders": ("transformers", "pixtral"), "tiler": ("whole", "max-side"), "layout": ("flat", "rows")}
        refuse_kinds(config, self.name, _TOWERS[:2], connector=("mlp",), language_model=("transformers",), **own)

    def served(self, config: ModelConfig) -> ModelConfig:
        """Towers without a class token give all their tokens, as the settings say it of them."""
        found = super().served(config)
        towers: list[Any] = list(found.encoders)
        bare = [tower.kind in ("transformers", "pixtral") and tower.block()["model_type"] in _TOWERS[1:] for tower in towers]
        return found.model_copy(
            update={"encoders": [tower.model_copy(update={"tokens": "all"}) if alone else tower for tower, alone in zip(towers, bare, strict=True)]}
        )

    def picture_token(self, config: ModelConfig) -> str:
        """By layout."""
        return _ROW_IMAGE if isinstance(config.layout, RowsLayout) else _IMAGE

    def rules(self, config: ModelConfig) -> list[Rule]:
        """Spellings of CLIP's and SigLIP's towers: with the inner name that older checkpoints have and serving engines ask for, then as saved today."""
        encoder: Any = config.encoders[0]
        tower = encoder.path + ".tower.*"
        inner = ("vision_tower.vision_model.*", "model.vision_tower.vision_model.*")
        outer = ("vision_tower.*", "model.vision_tower.*")
        towers = (*outer, *inner) if encoder.kind == "pixtral" else (*inner, *outer)
        linear = [
            rename(f"connector.layers.{ours}.*", f"multi_modal_projector.linear_{theirs}.*", f"model.multi_modal_projector.linear_{theirs}.*")
            for ours, theirs in ((0, 1), (2, 2))
        ]
        language = language_rules(("language_model.model.", "model.language_model."), ("language_model.lm_head.", "lm_head."))
        return [rename(tower, *towers), *linear, *language]


class LlavaNextFormat(LlavaFormat):
    """model_type llava_next: tiles beside the overview, and a learnt vector after each row of them."""

    name = "llava_next"
    image_processor = "LlavaNextImageProcessor"
    processor_class = "LlavaNextProcessor"
    architecture = "LlavaNextForConditionalGeneration"

    def _tiler(self, published: Published) -> Tiler:
        said = published.config
        listed = {"image_grid_pinpoints": said["image_grid_pinpoints"]} if said.get("image_grid_pinpoints") else {}
        return pinpoints(published.preprocessor | listed, said["vision_config"].get("image_size", 336))

    def _layout(self, published: Published) -> Layout:
        return MergedLayout()

    def write(self, config: ModelConfig, token: TokenId) -> Written:
        """As for LLaVA, with the canvases."""
        found = super().write(config, token)
        found.config["image_grid_pinpoints"] = found.preprocessor["image_grid_pinpoints"]
        return found

    def _refuse_parts(self, config: ModelConfig) -> None:
        own = {"encoders": ("transformers",), "tiler": ("llava-next",), "layout": ("merged",)}
        refuse_kinds(config, self.name, _TOWERS[:2], connector=("mlp",), language_model=("transformers",), **own)

    def rules(self, config: ModelConfig) -> list[Rule]:
        """With the vector."""
        return [*super().rules(config), rename("layout.newline", "image_newline", "model.image_newline")]
