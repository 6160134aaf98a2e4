"""BLIP in the layout of transformers: the captioner, and the model that compares and matches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

from sightline.model.assembly import ModelConfig
from sightline.model.chat import ChatFormat
from sightline.model.encoders import EncoderConfig
from sightline.model.fusion import CrossAttention
from sightline.model.native.dual_tower_formats import pairs
from sightline.model.native.key_rules import Rule, rename
from sightline.model.native.native_format import NativeFormat, TokenId, Written, refuse_kinds, whole_block
from sightline.model.native.picture_settings import settings_of, statistics, whole_picture
from sightline.model.native.published_folder import Published
from sightline.model.text_kinds.med import MedText

_CAPTIONER, _RETRIEVAL = "BlipForConditionalGeneration", "BlipForImageTextRetrieval"
_WRITER = ChatFormat(name="blip", begin="[DEC]", end="[SEP]", pictures="first", controls=("[DEC]", "[SEP]"))
"""A caption goes on from its prompt, with nothing between them; every token, the first too, reads the picture."""


class BlipFormat(NativeFormat):
    """model_type blip, BlipForConditionalGeneration: the text transformer writes by cross-attention to the picture."""

    name: ClassVar[str] = "blip"
    copies: ClassVar[Mapping[str, str]] = {
        "text_decoder.cls.predictions.decoder.weight": "text_decoder.bert.embeddings.word_embeddings.weight",
        "text_decoder.cls.predictions.decoder.bias": "text_decoder.cls.predictions.bias",
    }

    def recognises(self, config: Mapping[str, Any]) -> bool:
        """By class: several share a config."""
        return super().recognises(config) and _CAPTIONER in (config.get("architectures") or ())

    def chat(self, published: Published) -> ChatFormat:
        """Prompt, caption, end."""
        return _WRITER

    def read(self, published: Published) -> ModelConfig:
        """A decoder by itself."""
        text = published.config["text_config"]
        return ModelConfig(
            encoders=[_tower(published)],
            tiler=whole_picture(published.preprocessor, published.config["vision_config"].get("image_size", 384)),
            fusion=CrossAttention(),
            language_model=MedText(config=text, modes=("tell",), share="none", joint=published.config["image_text_hidden_size"]).resolve(),
            max_tokens=text["max_position_embeddings"],
        )

    def write(self, config: ModelConfig, token: TokenId) -> Written:
        """One config for each class of it."""
        own = {"encoders": ("transformers",), "tiler": ("whole",), "fusion": ("cross-attention",), "language_model": ("med",)}
        refuse_kinds(config, self.name, **own)
        return _written(config, cast(MedText, config.language_model), _CAPTIONER)

    def rules(self, config: ModelConfig) -> list[Rule]:
        """As saved."""
        return [
            rename(config.encoders[0].path + ".tower.*", "vision_model.*"),
            rename("language_model.text_decoder.*", "text_decoder.*"),
        ]

    def tokens(self, config: ModelConfig) -> dict[str, int]:
        """What its class adds to BERT's vocabulary."""
        return _added(cast(MedText, config.language_model))


class BlipRetrievalFormat(NativeFormat):
    """model_type blip, BlipForImageTextRetrieval: texts are compared with pictures, and matched."""

    name: ClassVar[str] = "blip-retrieval"

    def recognises(self, config: Mapping[str, Any]) -> bool:
        """By class."""
        return config.get("model_type") == "blip" and _RETRIEVAL in (config.get("architectures") or ())

    def chat(self, published: Published) -> ChatFormat:
        """None."""
        return pairs(published)

    def read(self, published: Published) -> ModelConfig:
        """An encoder by itself."""
        said = published.config
        text = MedText(config=said["text_config"], modes=("embed", "match"), share="none", joint=said["image_text_hidden_size"])
        return ModelConfig(
            encoders=[_tower(published)],
            tiler=whole_picture(published.preprocessor, said["vision_config"].get("image_size", 384)),
            text_encoder=text.resolve(),
        )

    def write(self, config: ModelConfig, token: TokenId) -> Written:
        """As for the captioner."""
        refuse_kinds(config, self.name, encoders=("transformers",), tiler=("whole",), text_encoder=("med",))
        return _written(config, cast(MedText, config.text_encoder), _RETRIEVAL)

    def rules(self, config: ModelConfig) -> list[Rule]:
        """As saved."""
        parts = ("text_encoder", "vision_proj", "text_proj", "itm_head")
        return [rename(config.encoders[0].path + ".tower.*", "vision_model.*"), *(rename(f"text_encoder.{part}.*", f"{part}.*") for part in parts)]

    def fresh(self, config: ModelConfig) -> tuple[str, ...]:
        """The temperature is not published."""
        return ("text_encoder.scale",)

    def tokens(self, config: ModelConfig) -> dict[str, int]:
        """As for the captioner."""
        return _added(cast(MedText, config.text_encoder))


def _tower(published: Published) -> EncoderConfig:
    seen = statistics(published)
    return EncoderConfig(config=published.config["vision_config"], tokens="all", final_norm=True, mean=seen.mean, std=seen.std).resolve()


def _written(config: ModelConfig, text: MedText, architecture: str) -> Written:
    tower: Any = config.encoders[0]
    said = {
        "model_type": "blip",
        "architectures": [architecture],
        "vision_config": whole_block(tower),
        "text_config": whole_block(text),
        "image_text_hidden_size": text.joint,
    }
    assert config.tiler is not None
    return Written(config=said, preprocessor=settings_of(config.tiler, tower, "BlipImageProcessor"), processor={"processor_class": "BlipProcessor"})


def _added(text: MedText) -> dict[str, int]:
    first = whole_block(text)["bos_token_id"]
    return {text.decode: first, text.encode: first + 1}
