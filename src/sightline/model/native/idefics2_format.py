"""Idefics2 in the layout of transformers."""

from __future__ import annotations

from typing import Any, cast

from sightline.errors import Problem, Refused
from sightline.model.assembly import ModelConfig
from sightline.model.connector_kinds.perceiver import PerceiverConnector
from sightline.model.encoders import EncoderConfig
from sightline.model.layout_kinds.wrapped_layout import WrappedLayout
from sightline.model.native.key_rules import Rule, rename
from sightline.model.native.native_format import NativeFormat, TokenId, Written, language_rules, longest, refuse_kinds, text_model, whole_block
from sightline.model.native.picture_settings import quad_split, settings_of, statistics
from sightline.model.native.published_folder import CONFIG, Published

_IMAGE = "<image>"
_PERCEIVER = {"hidden_act": "silu", "rms_norm_eps": 1e-6}
"""What the connector here does, whatever the settings say."""


class Idefics2Format(NativeFormat):
    """model_type idefics2: SigLIP for pictures of any size, perceiver, Mistral."""

    name = "idefics2"

    def chat(self, published: Published) -> str:
        """Its own."""
        return "idefics2"

    def read(self, published: Published) -> ModelConfig:
        """The tower is read behind its last norm. Raises Refused for activations and norms that the perceiver here has not."""
        said, seen = published.config, statistics(published)
        text, vision, perceiver = said["text_config"], said["vision_config"], said["perceiver_config"]
        wrong = [f"perceiver_config.{key}: {perceiver[key]}" for key, value in _PERCEIVER.items() if perceiver.get(key, value) != value]
        wrong += [f"text_config.hidden_act: {text['hidden_act']}"] if text["hidden_act"] != "silu" else []
        if wrong:
            raise Refused(
                Problem(
                    code="model/native-config",
                    place=str(published.folder / CONFIG),
                    found=", ".join(wrong),
                    allowed="hidden_act silu, rms_norm_eps 1e-06",
                    fix="compose this model in a recipe",
                )
            )
        return ModelConfig(
            encoders=[EncoderConfig(config=vision, final_norm=True, mean=seen.mean, std=seen.std).resolve()],
            tiler=quad_split(published.preprocessor, vision.get("image_size", 980)),
            connector=PerceiverConnector(
                latents=perceiver["resampler_n_latents"],
                depth=perceiver["resampler_depth"],
                heads=perceiver["resampler_n_heads"],
                key_heads=perceiver["num_key_value_heads"],
                head_width=perceiver["resampler_head_dim"],
                inner=text["intermediate_size"],
            ),
            layout=WrappedLayout(),
            language_model=text_model(text, said["tie_word_embeddings"]),
            max_tokens=longest(text),
        )

    def write(self, config: ModelConfig, token: TokenId) -> Written:
        """The perceptron before the perceiver is as wide inside as the language model's own: another width is refused when the settings are read again."""
        own = {"encoders": ("transformers",), "tiler": ("quad-split",), "connector": ("perceiver",), "layout": ("wrapped",)}
        refuse_kinds(config, self.name, ("idefics2_vision",), language_model=("transformers",), **own)
        tower, language, connector = (cast(Any, part) for part in (config.encoders[0], config.language_model, config.connector))
        text = whole_block(language)
        perceiver = {
            "model_type": "idefics2_perceiver",
            **_PERCEIVER,
            "hidden_size": language.width(),
            "resampler_n_latents": connector.latents,
            "resampler_depth": connector.depth,
            "resampler_n_heads": connector.heads,
            "resampler_head_dim": connector.head_width,
            "num_key_value_heads": connector.key_heads,
        }
        said = {
            "model_type": self.name,
            "architectures": ["Idefics2ForConditionalGeneration"],
            "vision_config": whole_block(tower),
            "perceiver_config": perceiver,
            "text_config": text,
            "image_token_id": token(_IMAGE),
            "tie_word_embeddings": text["tie_word_embeddings"],
        }
        assert config.tiler is not None
        around = {"processor_class": "Idefics2Processor", "image_seq_len": connector.latents}
        return Written(config=said, preprocessor=settings_of(config.tiler, tower, "Idefics2ImageProcessor"), processor=around)

    def rules(self, config: ModelConfig) -> list[Rule]:
        """As saved."""
        return [
            rename(config.encoders[0].path + ".tower.*", "model.vision_model.*"),
            rename("connector.*", "model.connector.*"),
            *language_rules(("model.text_model.",), ("lm_head.",)),
        ]
