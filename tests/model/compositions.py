"""Tiny models of many compositions, as recipes would say them: what tests of the laws run over."""

from __future__ import annotations

import json
from typing import Any

import torch
from tiny_models import TEXTS, built

from sightline.model.assembly import ModelConfig
from sightline.model.processor import Processor
from sightline.model.tokens import train_tokenizer
from sightline.model.vlm import Model

_SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "patch_size": 8}
CLIP = {"config": {"model_type": "clip_vision_model", "image_size": 32, **_SIZES}, "layer": -2}
SIGLIP = {"config": {"model_type": "siglip_vision_model", "image_size": 32, **_SIZES}, "layer": -1}
DINO = {"config": {"model_type": "dinov2", "image_size": 32, "mlp_ratio": 2, **{k: v for k, v in _SIZES.items() if k != "intermediate_size"}}}
LLAMA = {
    "config": {
        "model_type": "llama",
        "vocab_size": 400,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 2048,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    },
    "attention": "eager",
}
T5 = {
    "kind": "encoder-decoder",
    "config": {
        "model_type": "t5",
        "vocab_size": 400,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "dropout_rate": 0.0,
    },
}
MED = {
    "model_type": "blip_text_model",
    "vocab_size": 400,
    "hidden_size": 32,
    "encoder_hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
PAIRED = {
    "encoders": [{"name": "a", **DINO}, {"name": "b", **SIGLIP}],
    "tiler": {"kind": "catty", "size": 32, "most": 4},
    "combine": {"kind": "average", "place": "before"},
    "connector": {"kind": "resampler", "side": 2, "head_width": 16},
    "layout": {"kind": "flat"},
    "fusion": {"kind": "gated-cross-attention", "layers": [1]},
}
COMPOSITIONS: dict[str, dict[str, Any]] = {
    "flat": {"encoders": [CLIP], "tiler": {"kind": "whole", "size": 32}, "connector": {"kind": "mlp"}},
    "merged": {"encoders": [CLIP], "tiler": {"kind": "llava-next", "size": 32, "pinpoints": [[32, 64], [64, 32], [64, 64]]}, "layout": {"kind": "merged"}},
    "separated": {
        "encoders": [{**CLIP, "positions": "interpolate"}],
        "tiler": {"kind": "llava-uhd", "size": 32, "patch": 8},
        "connector": {"kind": "resampler", "side": 2, "head_width": 16},
        "layout": {"kind": "separated"},
    },
    "canvas": {
        "encoders": [CLIP],
        "tiler": {"kind": "canvas", "size": 32},
        "layout": {"kind": "flat", "token": "<|image|>"},
        "fusion": {"kind": "gated-cross-attention", "layers": [0, 1]},
    },
    "tags-beside": {
        "encoders": [CLIP],
        "tiler": {"kind": "internvl", "size": 32, "most": 4},
        "connector": {"kind": "mlp", "merge": 2},
        "layout": {"kind": "tagged", "tags": "decoder"},
        "fusion": {"kind": "gated-cross-attention", "every": 1},
    },
    "hybrid": {
        "encoders": [CLIP],
        "tiler": {"kind": "internvl", "size": 32, "most": 4},
        "connector": {"kind": "mlp", "merge": 2},
        "layout": {"kind": "tagged"},
        "fusion": {"kind": "gated-cross-attention", "layers": [1], "overview": "decoder"},
    },
    "off-paper": PAIRED,
    "roles": {
        "encoders": [{"name": "clip", **CLIP, "sees": ["overview"]}, {"name": "dino", **DINO, "sees": ["tile"]}],
        "tiler": {"kind": "llava-next", "size": 32, "pinpoints": [[32, 64], [64, 32], [64, 64]]},
        "connector": {"kind": "by-encoder", "connectors": {"clip": {"kind": "mlp"}, "dino": {"kind": "mlp"}}},
        "layout": {"kind": "merged", "newline": False},
        "regions": {"kind": "spatial", "points": 16, "anchors": [8, 4], "neighbours": 3, "inner": 8},
    },
    "prompt-in-memory": {
        "encoders": [CLIP],
        "tiler": {"kind": "whole", "size": 32},
        "connector": {"kind": "mlp"},
        "language_model": T5,
        "fusion": {"kind": "encoder-decoder"},
    },
    "question-in-memory": {
        "encoders": [{"config": {"model_type": "blip_vision_model", "image_size": 32, **_SIZES}, "final_norm": True, "tokens": "all"}],
        "tiler": {"kind": "whole", "size": 32},
        "connector": None,
        "language_model": {"kind": "med", "config": MED, "modes": ["question", "tell"], "share": "none", "max_tokens": 30},
        "fusion": {"kind": "encoder-decoder"},
    },
    "captioner": {
        "encoders": [{"config": {"model_type": "blip_vision_model", "image_size": 32, **_SIZES}, "final_norm": True, "tokens": "all"}],
        "tiler": {"kind": "whole", "size": 32},
        "connector": None,
        "language_model": {"kind": "med", "config": MED, "modes": ["tell"]},
        "fusion": {"kind": "cross-attention"},
    },
    "prompted-encoder": {
        "encoders": [{**CLIP, "positions": "interpolate"}],
        "tiler": {"kind": "llava-uhd", "size": 32, "patch": 8},
        "layout": {"kind": "separated"},
        "prompts": {"place": "encoder", "count": 3, "deep": True},
    },
    "prompted-text": {
        "encoders": [CLIP],
        "tiler": {"kind": "llava-next", "size": 32, "pinpoints": [[32, 64], [64, 32], [64, 64]]},
        "layout": {"kind": "merged"},
        "prompts": {"count": 3},
        "regions": {"kind": "spatial", "points": 16, "anchors": [8, 4], "neighbours": 3, "inner": 8},
    },
    "grid": {
        "encoders": [
            {"kind": "qwen2-vl", "config": {"model_type": "qwen2_vl_vision", "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2, "patch_size": 8}}
        ],
        "tiler": {"kind": "smart-resize", "factor": 16, "min_pixels": 256, "max_pixels": 4096},
        "connector": {"kind": "merger"},
        "language_model": {**LLAMA, "sections": [1, 1, 2]},
        "layout": {"kind": "flat", "begin": "<|vision_start|>", "end": "<|vision_end|>", "film_as": "block"},
    },
}


def composition(name: str) -> ModelConfig:
    """The Config of that name; parts that it leaves out are a perceptron of two layers and a Llama of two layers."""
    said = {"language_model": LLAMA, "connector": {"kind": "mlp"}, **COMPOSITIONS[name]}
    return ModelConfig.model_validate_json(json.dumps(said))


def make(name: str) -> tuple[Model, Processor]:
    """The model of a composition with random weights, its gates half open so that what they let in is felt."""
    config = composition(name)
    tokenizer = train_tokenizer(TEXTS, 340, config.chat_format(), config.controls())
    model, processor = built(config.resolve(400, control=tokenizer.control), tokenizer)
    with torch.no_grad():
        for path, tensor in model.named_parameters():
            if "_gate" in path and tensor.numel() == 1:
                tensor.fill_(0.5)
    return model, processor
