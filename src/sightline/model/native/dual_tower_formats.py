"""CLIP and SigLIP in the layout of transformers: two towers, what pools them, and the scale of their similarity."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from sightline.errors import Problem, Refused
from sightline.model.assembly import ModelConfig
from sightline.model.chat import ChatFormat
from sightline.model.encoders import EncoderConfig, Read
from sightline.model.native.key_rules import Reshape, Rule, rename
from sightline.model.native.native_format import NativeFormat, TokenId, Written, refuse_kinds, whole_block
from sightline.model.native.picture_settings import settings_of, statistics, whole_picture
from sightline.model.native.published_folder import CONFIG, Published
from sightline.model.text_tower import TextEncoderConfig


def pairs(published: Published) -> ChatFormat:
    """Nothing is said in turns: texts end with the tokenizer's own end token."""
    return ChatFormat(name="pairs", end=published.token("eos_token") or published.token("sep_token") or "</s>")


class ClipFormat(NativeFormat):
    """model_type clip with a vision transformer."""

    name: ClassVar[str] = "clip"

    def chat(self, published: Published) -> ChatFormat:
        """None."""
        return pairs(published)

    def read(self, published: Published) -> ModelConfig:
        """The class token behind the last norm against the token that ends a text."""
        said, seen = published.config, statistics(published)
        text, vision = said["text_config"], said["vision_config"]
        tower = EncoderConfig(config=vision, reads={"text_encoder": Read(lead="keep", final_norm=True)}, mean=seen.mean, std=seen.std)
        return ModelConfig(
            encoders=[tower.resolve()],
            tiler=whole_picture(published.preprocessor, vision.get("image_size", 224)),
            text_encoder=TextEncoderConfig(
                config=text,
                width=said.get("projection_dim", 512),
                texts="last",
                pictures="first",
                begin=published.token("bos_token"),
                max_tokens=text.get("max_position_embeddings", 77),
            ).resolve(),
        )

    def write(self, config: ModelConfig, token: TokenId) -> Written:
        """Both towers' configs repeat the width of the joint space."""
        refuse_kinds(config, self.name, ("clip_vision_model",), encoders=("transformers",), tiler=("whole",), text_encoder=("transformers",))
        tower, text = (cast(Any, part) for part in (config.encoders[0], config.text_encoder))
        said = {
            "model_type": self.name,
            "architectures": ["CLIPModel"],
            "vision_config": whole_block(tower),
            "text_config": whole_block(text),
            "projection_dim": text.width,
        }
        assert config.tiler is not None
        return Written(config=said, preprocessor=settings_of(config.tiler, tower, "CLIPImageProcessor"), processor={"processor_class": "CLIPProcessor"})

    def rules(self, config: ModelConfig) -> list[Rule]:
        """Towers as saved."""
        return [
            rename(config.encoders[0].path + ".tower.*", "vision_model.*"),
            rename("text_encoder.tower.*", "text_model.*"),
            rename("text_encoder.text_projection.*", "text_projection.*"),
            rename("text_encoder.picture_projection.*", "visual_projection.*"),
            rename("text_encoder.scale", "logit_scale"),
        ]


class SiglipFormat(NativeFormat):
    """model_type siglip: SigLIP, and SigLIP 2 at fixed sizes."""

    name: ClassVar[str] = "siglip"

    def chat(self, published: Published) -> ChatFormat:
        """None."""
        return pairs(published)

    def read(self, published: Published) -> ModelConfig:
        """The tower's pooling head belongs to the text side here. Raises Refused for a head of another activation or norm, and for towers without one."""
        said, seen = published.config, statistics(published)
        text, vision = said["text_config"], said["vision_config"]
        known = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "vision_use_head": True}
        if wrong := [f"vision_config.{key}: {vision[key]}" for key, value in known.items() if vision.get(key, value) != value]:
            raise Refused(
                Problem(
                    code="model/native-config",
                    place=str(published.folder / CONFIG),
                    found=", ".join(wrong),
                    allowed=", ".join(f"{key} {value}" for key, value in known.items()),
                    fix="compose this model in a recipe",
                )
            )
        block = vision | {"vision_use_head": False}
        tower = EncoderConfig(config=block, reads={"text_encoder": Read(final_norm=True)}, mean=seen.mean, std=seen.std).resolve()
        side = TextEncoderConfig(
            config=text,
            width=vision["hidden_size"],
            texts="head",
            pictures="probe",
            heads=vision["num_attention_heads"],
            inner=vision["intermediate_size"],
            padded=True,
            loss="sigmoid",
            max_tokens=text["max_position_embeddings"],
        )
        return ModelConfig(encoders=[tower], tiler=whole_picture(published.preprocessor, vision.get("image_size", 224)), text_encoder=side.resolve())

    def write(self, config: ModelConfig, token: TokenId) -> Written:
        """The pooling head is as wide as the tower's layers: other sizes are refused when the settings are read again."""
        refuse_kinds(config, self.name, ("siglip_vision_model",), encoders=("transformers",), tiler=("whole",), text_encoder=("transformers",))
        tower, text = (cast(Any, part) for part in (config.encoders[0], config.text_encoder))
        said = {
            "model_type": self.name,
            "architectures": ["SiglipModel"],
            "vision_config": whole_block(tower) | {"vision_use_head": True},
            "text_config": whole_block(text),
        }
        assert config.tiler is not None
        return Written(config=said, preprocessor=settings_of(config.tiler, tower, "SiglipImageProcessor"), processor={"processor_class": "SiglipProcessor"})

    def rules(self, config: ModelConfig) -> list[Rule]:
        """Towers as saved; scale and bias are published as rows of one number."""
        tower = config.encoders[0].path + ".tower."
        one = Reshape(theirs=(1,), ours=())
        return [
            *(rename(tower + part, f"vision_model.{part}") for part in ("embeddings.*", "encoder.*", "post_layernorm.*")),
            rename("text_encoder.picture_head.*", "vision_model.head.*"),
            rename("text_encoder.tower.*", "text_model.*"),
            rename("text_encoder.scale", "logit_scale", change=one),
            rename("text_encoder.bias", "logit_bias", change=one),
        ]
