"""Tiny models of compositions that no published family says, exported, and what stock classes of transformers compute with them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from compositions import CLIP, COMPOSITIONS, DINO, LLAMA, SIGLIP
from PIL import Image
from tiny_models import TEXTS, built, picture, sample, turn

from sightline.export.remote_code import RemoteCodeExporter
from sightline.model import directory
from sightline.model.assembly import ModelConfig
from sightline.model.processor import Processor
from sightline.model.tokens import train_tokenizer
from sightline.model.vlm import Model
from sightline.samples.pictures import pixels
from sightline.samples.sample import Picture

_RESAMPLER = {"kind": "resampler", "side": 2, "head_width": 16}
_CONVNEXT = {"model_type": "convnext", "num_channels": 3, "patch_size": 4, "num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1], "image_size": 128}
_QFORMER = {
    "model_type": "blip_2_qformer",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "cross_attention_frequency": 2,
    "vocab_size": 30,
    "max_position_embeddings": 32,
}
SENT: dict[str, dict[str, Any]] = {
    **{name: COMPOSITIONS[name] for name in ("flat", "merged", "separated", "roles", "prompted-encoder", "prompted-text")},
    "points": {
        "encoders": [{"name": "general", **CLIP}, {"name": "text", **CLIP}],
        "tiler": {"kind": "catty", "size": 32, "most": 4},
        "connector": {"kind": "mlp", "merge": 2},
        "combine": {"kind": "average", "place": "after"},
    },
    "dual-resampled": {
        "encoders": [{"name": "siglip", **SIGLIP}, {"name": "dino", **DINO}],
        "tiler": {"kind": "catty", "size": 32, "most": 4},
        "connector": {"kind": "by-encoder", "connectors": {"siglip": _RESAMPLER, "dino": _RESAMPLER | {"kind": "spatial-resampler"}}},
        "combine": {"kind": "average", "place": "after", "weights": [0.25, 0.75]},
    },
    "channels": {
        "encoders": [{"name": "siglip", **SIGLIP}, {"name": "dino", **DINO}],
        "tiler": {"kind": "internvl", "size": 32, "most": 4},
        "combine": {"kind": "concat"},
        "connector": {"kind": "mlp", "merge": 2, "norm": True, "coordinates": 3},
        "layout": {"kind": "tagged"},
    },
    "mined": {
        "encoders": [
            {"name": "clip", **CLIP, "sees": ["overview", "tile"]},
            {"name": "convnext", "kind": "staged-convnext", "config": _CONVNEXT, "stages": [0, 1], "sees": ["detail"]},
        ],
        "tiler": {"kind": "dual-resolution", "size": 32, "detail": 64},
        "combine": {"kind": "mine", "queries": "clip", "candidates": "convnext"},
    },
    "pooled": {
        "encoders": [{**CLIP, "config": CLIP["config"] | {"image_size": 64}, "layer": [-2, -3]}],
        "tiler": {"kind": "molmo", "size": 64, "margin": 16, "most": 4},
        "connector": {"kind": "attention-pool", "heads": 4, "inner": 48, "padding": "own"},
        "layout": {"kind": "rows", "begin": "<im_start>", "row_end": "<im_col>", "end": "<im_end>"},
    },
    "queried": {"encoders": [CLIP], "tiler": {"kind": "whole", "size": 32, "fit": "crop"}, "connector": {"kind": "q-former", "config": _QFORMER, "queries": 3}},
    "native": {
        "encoders": [{"config": {**SIGLIP["config"], "model_type": "idefics2_vision"}}],
        "tiler": {"kind": "max-side", "size": 48, "patch": 8},
        "connector": {"kind": "perceiver", "latents": 3, "depth": 1, "heads": 2, "key_heads": 1, "head_width": 8, "inner": 40},
    },
}
"""Name -> what a recipe would say of it. Between them they have every kind that an exported model may have, but for tilers of squares."""
SIZES = ((40, 30), (90, 30), (33, 120))


@dataclass(frozen=True)
class Sent:
    """A model with random weights, and the folders that hold it."""

    name: str
    model: Model
    processor: Processor
    home: Path
    out: Path

    @cached_property
    def loaded(self) -> tuple[Any, Any]:
        """Processor and model by stock classes."""
        from transformers import AutoModelForImageTextToText, AutoProcessor

        theirs = AutoModelForImageTextToText.from_pretrained(self.out, trust_remote_code=True)
        return AutoProcessor.from_pretrained(self.out, trust_remote_code=True), theirs.eval()


def config_of(said: dict[str, Any]) -> ModelConfig:
    """The Config; parts that are left out are a perceptron of two layers and a Llama of two layers."""
    return ModelConfig.model_validate_json(json.dumps({"language_model": LLAMA, "connector": {"kind": "mlp"}, **said}))


def send(name: str, folder: Path, said: dict[str, Any] | None = None, spare: int = 60) -> Sent:
    """The composition of that name, saved and exported; `spare` rows of the vocabulary are no token's."""
    return send_config(name, config_of(said or SENT[name]), folder, spare)


def send_config(name: str, config: ModelConfig, folder: Path, spare: int = 60) -> Sent:
    """A model of this Config with random weights and a tokenizer trained for it, saved and exported."""
    tokenizer = train_tokenizer(TEXTS, 340, config.chat_format(), config.controls())
    model, processor = built(config.resolve(tokenizer.size + spare, control=tokenizer.control), tokenizer)
    home, out = folder / "model", folder / f"{name}-out"
    home.mkdir(parents=True)
    directory.save(home, model, processor)
    RemoteCodeExporter().write(home, out)
    return Sent(name, model, processor, home, out)


def photo(width: int, height: int) -> Picture:
    """A picture of noise, another one for each width."""
    return picture(width, width, height)


def opened(shown: Picture) -> Image.Image:
    """As a user opens it."""
    return Image.fromarray(pixels(shown))


@torch.no_grad()
def our_logits(sent: Sent, pictures: list[Picture], question: str) -> tuple[list[int], torch.Tensor]:
    """Ids, the picture's token in its places, and logits of each token of a question about pictures."""
    prompt = sent.processor.encode(sample(turn("user", *range(len(pictures)), question), pictures=pictures), answer=False)
    ids = prompt.ids.copy()
    ids[prompt.slots] = json.loads((sent.out / "config.json").read_text())["image_token_id"]
    return ids.tolist(), sent.model.language_model.logits(sent.model.hidden(sent.processor.collate([[prompt]]))[0])


def inputs_of(processor: Any, pictures: list[Picture], question: str) -> Any:
    """The same question as users of transformers ask it."""
    content = [*({"type": "image"} for _ in pictures), {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(text=[text], images=[opened(one) for one in pictures] or None, return_tensors="pt")
