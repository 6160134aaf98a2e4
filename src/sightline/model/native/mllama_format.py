"""Llama 3.2 Vision in the layout of transformers: its list of layers holds those of the language model and, between them, the gated blocks of the fusion."""

from __future__ import annotations

from typing import Any, cast

from sightline.errors import Problem, Refused
from sightline.model.assembly import ModelConfig
from sightline.model.connectors import MlpConnector
from sightline.model.encoder_kinds.canvas_tower import MllamaEncoder
from sightline.model.fusion import GatedCrossAttention
from sightline.model.layouts import FlatLayout
from sightline.model.native.key_rules import Rule, rename
from sightline.model.native.native_format import NativeFormat, TokenId, Written, longest, refuse_kinds, text_model, whole_block
from sightline.model.native.picture_settings import canvas, settings_of, statistics
from sightline.model.native.published_folder import CONFIG, Published

_IMAGE = "<|image|>"
_INPUT_ROWS = 8
"""Rows of the input embedding beyond the vocabulary, the picture's token among them."""


class MllamaFormat(NativeFormat):
    """model_type mllama: tower over canvases, one linear layer, Llama with gated cross-attention."""

    name = "mllama"

    def chat(self, published: Published) -> str:
        """Llama 3's."""
        return "llama-3"

    def read(self, published: Published) -> ModelConfig:
        """Tokens before the first picture get what transformers gives them. Raises Refused where a gated block stands after the last layer."""
        said, seen = published.config, statistics(published)
        text, vision = dict(said["text_config"]), said["vision_config"]
        crossing = text.pop("cross_attention_layers")
        text.pop("dropout", None)  # of its own class; nothing reads it
        own = text["num_hidden_layers"] - len(crossing)
        before = tuple(layer - number for number, layer in enumerate(sorted(crossing)))
        if not before or before[-1] >= own:
            raise Refused(
                Problem(
                    code="model/native-config",
                    place=str(published.folder / CONFIG),
                    found=f"cross_attention_layers {crossing} of {text['num_hidden_layers']} layers",
                    allowed="at least one, each before a layer of the language model",
                    fix="compose this model in a recipe",
                )
            )
        block = text | {"model_type": "llama", "num_hidden_layers": own}
        return ModelConfig(
            encoders=[MllamaEncoder(config=vision, mean=seen.mean, std=seen.std).resolve()],
            tiler=canvas(published.preprocessor, vision["image_size"]),
            connector=MlpConnector(depth=1),
            layout=FlatLayout(token=_IMAGE),
            fusion=GatedCrossAttention(layers=before, unattended="uniform"),
            language_model=text_model(block, said["tie_word_embeddings"], extra_rows=_INPUT_ROWS),
            max_tokens=longest(text),
        )

    def write(self, config: ModelConfig, token: TokenId) -> Written:
        """Layers counted with the gated blocks among them."""
        own = {"encoders": ("mllama",), "tiler": ("canvas",), "connector": ("mlp",), "fusion": ("gated-cross-attention",)}
        refuse_kinds(config, self.name, language_model=("transformers",), **own)
        tower, language = (cast(Any, part) for part in (config.encoders[0], config.language_model))
        # ids that nobody said are left to the class, which takes no null
        text = {name: value for name, value in whole_block(language).items() if value is not None}
        before = cast(GatedCrossAttention, config.fusion).before(text["num_hidden_layers"])
        crossing = [layer + number for number, layer in enumerate(before)]
        said = {
            "model_type": self.name,
            "architectures": ["MllamaForConditionalGeneration"],
            "vision_config": whole_block(tower),
            "text_config": text
            | {"model_type": "mllama_text_model", "num_hidden_layers": text["num_hidden_layers"] + len(crossing), "cross_attention_layers": crossing},
            "image_token_index": token(_IMAGE),
            "tie_word_embeddings": text["tie_word_embeddings"],
        }
        assert config.tiler is not None
        return Written(config=said, preprocessor=settings_of(config.tiler, tower, "MllamaImageProcessor"), processor={"processor_class": "MllamaProcessor"})

    def served(self, config: ModelConfig) -> ModelConfig:
        """Gated blocks by the numbers of their layers, as the settings count them."""
        found = super().served(config)
        if not isinstance(found.fusion, GatedCrossAttention) or found.language_model is None:
            return found
        before = found.fusion.before(found.language_model.block()["num_hidden_layers"])
        return found.model_copy(update={"fusion": found.fusion.model_copy(update={"layers": before, "every": None})})

    def picture_token(self, config: ModelConfig) -> str:
        """One token, whatever a picture costs."""
        return _IMAGE

    def rules(self, config: ModelConfig) -> list[Rule]:
        """One rule for each layer, whose number depends on the gated blocks before it; spellings as saved, and as the class holds it in memory."""
        text = cast(Any, config.language_model).block()
        before = cast(GatedCrossAttention, config.fusion).before(text["num_hidden_layers"])
        prefixes = ("language_model.model.", "model.language_model.")
        crossing = {layer + number: number for number, layer in enumerate(before)}
        layers = []
        for layer in range(text["num_hidden_layers"] + len(before)):
            own = layer - sum(other < layer for other in crossing)
            ours = f"fusion.layers.{crossing[layer]}.*" if layer in crossing else f"language_model.model.model.layers.{own}.*"
            layers.append(rename(ours, *(f"{prefix}layers.{layer}.*" for prefix in prefixes)))
        outer = [rename(f"language_model.model.model.{part}.*", *(f"{prefix}{part}.*" for prefix in prefixes)) for part in ("embed_tokens", "norm")]
        return [
            rename(config.encoders[0].path + ".tower.*", "vision_model.*", "model.vision_model.*"),
            rename("connector.layers.0.*", "multi_modal_projector.*", "model.multi_modal_projector.*"),
            *layers,
            *outer,
            rename("language_model.model.lm_head.*", "language_model.lm_head.*", "lm_head.*"),
        ]
