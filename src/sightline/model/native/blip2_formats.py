"""BLIP-2 and InstructBLIP in the layout of transformers: tower, Q-Former, language model; and BLIP-2's first stage alone, which compares and matches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

from sightline.model import hub_layout
from sightline.model.assembly import ModelConfig, TokenizerConfig
from sightline.model.chat import ChatFormat
from sightline.model.connector_kinds.query_transformer import QueryTransformerConnector
from sightline.model.encoders import EncoderConfig
from sightline.model.fusion import EncoderDecoder, SequenceFusion
from sightline.model.language import EncoderDecoderConfig
from sightline.model.native.dual_tower_formats import pairs
from sightline.model.native.key_rules import Rule, rename
from sightline.model.native.native_format import NativeFormat, TokenId, Written, longest, refuse_kinds, text_model, whole_block
from sightline.model.native.picture_settings import settings_of, statistics, whole_picture
from sightline.model.native.published_folder import Published
from sightline.model.text_tower import SharedTextEncoder

_RETRIEVAL = "Blip2ForImageTextRetrieval"
_IMAGE = "<image>"
_TOWERS = {"instructblip_vision_model": "blip_2_vision_model"}
"""The same tower under another name."""


class Blip2Format(NativeFormat):
    """model_type blip-2 with a language model, which is causal or has an encoder of its own (T5)."""

    name: ClassVar[str] = "blip-2"
    architecture: ClassVar[str] = "Blip2ForConditionalGeneration"
    processor_class: ClassVar[str] = "Blip2Processor"
    reads_text: ClassVar[bool] = False
    pictures: ClassVar[tuple[str, ...]] = ("first",)

    def recognises(self, config: Mapping[str, Any]) -> bool:
        """Not the class for retrieval, which has no language model and yet a config of one."""
        return super().recognises(config) and _RETRIEVAL not in (config.get("architectures") or ())

    def chat(self, published: Published) -> str:
        """By language model."""
        return "blip-2-t5" if _encodes(published.config) else "blip-2"

    def read(self, published: Published) -> ModelConfig:
        """The tower's last norm belongs to what the Q-Former reads, and its class token too."""
        said = published.config
        text = said["text_config"]
        encodes = _encodes(said)
        connector = QueryTransformerConnector(config=said["qformer_config"], queries=said["num_query_tokens"], reads_text=self.reads_text)
        return ModelConfig(
            encoders=[_tower(published)],
            tiler=whole_picture(published.preprocessor, said["vision_config"].get("image_size", 224)),
            connector=connector.resolve(),
            fusion=EncoderDecoder() if encodes else SequenceFusion(),
            language_model=EncoderDecoderConfig(config=text, tied=_tied(published)).resolve() if encodes else text_model(text, text["tie_word_embeddings"]),
            side_tokenizer=TokenizerConfig() if self.side else None,
            max_tokens=512 if encodes else longest(text),
        )

    def write(self, config: ModelConfig, token: TokenId) -> Written:
        """Three configs and the number of queries."""
        own = {"encoders": ("transformers",), "tiler": ("whole",), "connector": ("q-former",), "fusion": ("sequence", "encoder-decoder")}
        refuse_kinds(config, self.name, ("blip_2_vision_model",), language_model=("transformers", "encoder-decoder"), **own)
        tower, language, connector = (cast(Any, part) for part in (config.encoders[0], config.language_model, config.connector))
        said = {
            "model_type": self.name,
            "architectures": [self.architecture],
            "vision_config": whole_block(tower) | {"model_type": self._published_tower()},
            "qformer_config": connector.block() | {"encoder_hidden_size": tower.channels()},
            "text_config": whole_block(language),
            "num_query_tokens": connector.queries,
            "image_token_index": token(_IMAGE),
        }
        assert config.tiler is not None
        around = {"processor_class": self.processor_class, "num_query_tokens": connector.queries}
        return Written(config=said, preprocessor=settings_of(config.tiler, tower, "BlipImageProcessor"), processor=around)

    def served(self, config: ModelConfig) -> ModelConfig:
        """Without the Q-Former's text side: comparing, matching and telling are no part of an answer. The width that it reads follows from the tower."""
        found = super().served(config)
        connector = found.connector
        if not isinstance(connector, QueryTransformerConnector) or len(found.encoders) != 1:
            return found
        bare = QueryTransformerConnector(config=connector.config, queries=connector.queries, reads_text=connector.reads_text)
        block = bare.block() | {"encoder_hidden_size": cast(Any, found.encoders[0]).channels()}
        return found.model_copy(update={"connector": bare.model_copy(update={"config": block})})

    def placeholder(self, config: ModelConfig) -> str:
        """None: the processor writes the queries before all text."""
        return ""

    def _published_tower(self) -> str:
        return "blip_2_vision_model"

    def rules(self, config: ModelConfig) -> list[Rule]:
        """As saved; the language model stands there whole, head and all."""
        return [
            *_first_stage(config),
            rename("connector.language_projection.*", "language_projection.*"),
            rename("language_model.model.*", "language_model.*"),
        ]


class InstructBlipFormat(Blip2Format):
    """model_type instructblip: the Q-Former reads the instruction, in a tokenizer of its own."""

    name: ClassVar[str] = "instructblip"
    architecture: ClassVar[str] = "InstructBlipForConditionalGeneration"
    processor_class: ClassVar[str] = "InstructBlipProcessor"
    reads_text: ClassVar[bool] = True
    side: ClassVar[str] = "qformer_tokenizer"

    def chat(self, published: Published) -> str:
        """Its own."""
        return "blip-2-t5" if _encodes(published.config) else "instructblip"

    def _published_tower(self) -> str:
        return "instructblip_vision_model"

    def tokens(self, config: ModelConfig) -> dict[str, int]:
        """As for the first stage."""
        return _decoding(config)


class Blip2RetrievalFormat(NativeFormat):
    """model_type blip-2 without a language model: pictures are compared with texts by the nearest query, and matched."""

    name: ClassVar[str] = "blip-2-retrieval"

    def recognises(self, config: Mapping[str, Any]) -> bool:
        """The class for retrieval."""
        return config.get("model_type") == "blip-2" and _RETRIEVAL in (config.get("architectures") or ())

    def chat(self, published: Published) -> ChatFormat:
        """None."""
        return pairs(published)

    def read(self, published: Published) -> ModelConfig:
        """The Q-Former is the text encoder too."""
        said = published.config
        connector = QueryTransformerConnector(
            config=said["qformer_config"], queries=said["num_query_tokens"], text=True, project=False, joint=said["image_text_hidden_size"]
        )
        return ModelConfig(
            encoders=[_tower(published)],
            tiler=whole_picture(published.preprocessor, said["vision_config"].get("image_size", 224)),
            connector=connector.resolve(),
            text_encoder=cast(Any, SharedTextEncoder(part="connector")),
        )

    def write(self, config: ModelConfig, token: TokenId) -> Written:
        """As for BLIP-2; the placeholder of pictures stands for no token."""
        refuse_kinds(config, self.name, encoders=("transformers",), tiler=("whole",), connector=("q-former",), text_encoder=("shared",))
        tower, connector = (cast(Any, part) for part in (config.encoders[0], config.connector))
        said = {
            "model_type": "blip-2",
            "architectures": [_RETRIEVAL],
            "vision_config": whole_block(tower),
            "qformer_config": connector.block() | {"encoder_hidden_size": tower.channels()},
            "num_query_tokens": connector.queries,
            "image_text_hidden_size": connector.joint,
        }
        assert config.tiler is not None
        return Written(config=said, preprocessor=settings_of(config.tiler, tower, "BlipImageProcessor"), processor={"processor_class": "Blip2Processor"})

    def rules(self, config: ModelConfig) -> list[Rule]:
        """As saved."""
        parts = ("embeddings", "vision_projection", "text_projection", "itm_head")
        return [*_first_stage(config), *(rename(f"connector.{part}.*", f"{part}.*") for part in parts)]

    def fresh(self, config: ModelConfig) -> tuple[str, ...]:
        """The temperature, and the head that tells texts: neither is published."""
        return ("connector.scale", "connector.cls.")

    def tokens(self, config: ModelConfig) -> dict[str, int]:
        """The token that begins a text which is told."""
        return _decoding(config)


def _encodes(said: Mapping[str, Any]) -> bool:
    return not said.get("use_decoder_only_language_model", said["text_config"]["model_type"] not in ("t5",))


def _tower(published: Published) -> EncoderConfig:
    seen, block = statistics(published), dict(published.config["vision_config"])
    block["model_type"] = _TOWERS.get(block["model_type"], block["model_type"])
    return EncoderConfig(config=block, tokens="all", final_norm=True, mean=seen.mean, std=seen.std).resolve()


def _first_stage(config: ModelConfig) -> list[Rule]:
    return [
        rename(config.encoders[0].path + ".tower.*", "vision_model.*"),
        rename("connector.qformer.*", "qformer.*"),
        rename("connector.query_tokens", "query_tokens"),
    ]


def _decoding(config: ModelConfig) -> dict[str, int]:
    """The Q-Former's vocabulary is BERT's and one token more, which its tokenizer gets when it is used."""
    connector: Any = config.connector
    return {connector.decode: connector.block()["vocab_size"] - 1}


def _tied(published: Published) -> bool | None:
    """False where the checkpoint writes words with a matrix of its own, which transformers' class ties whatever the config says (Flan-T5); else as the class has it."""
    import torch

    names = ("language_model.lm_head.weight", "language_model.shared.weight")
    stored = hub_layout.published(str(published.folder), names)
    return False if len(stored) == len(names) and not torch.equal(stored[names[0]], stored[names[1]]) else None
