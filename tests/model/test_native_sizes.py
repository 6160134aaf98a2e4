"""Published config.json files as they stand on the hub: read whole, built without memory, and as large as published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sightline.errors import Refused
from sightline.model.native.native_table import format_of
from sightline.model.native.native_weights import blank
from sightline.model.native.published_folder import Published

CLIP_336: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
    "vocab_size": 32000,
}
EVA: dict[str, Any] = {"model_type": "blip_2_vision_model"}
QWEN2_VL = {
    "model_type": "qwen2_vl",
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "image_token_id": 151655,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_scaling": {"mrope_section": [16, 24, 24], "type": "mrope"},
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "video_token_id": 151656,
    "vision_config": {"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "in_chans": 3, "mlp_ratio": 4, "model_type": "qwen2_vl", "num_heads": 16},
    "vision_end_token_id": 151653,
    "vision_start_token_id": 151652,
    "vision_token_id": 151654,
    "vocab_size": 152064,
}
MLLAMA = {
    "model_type": "mllama",
    "architectures": ["MllamaForConditionalGeneration"],
    "image_token_index": 128256,
    "text_config": {
        "model_type": "mllama_text_model",
        "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
        "eos_token_id": [128001, 128008, 128009],
        "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "rope_theta": 500000.0,
        "torch_dtype": "bfloat16",
    },
    "vision_config": {"model_type": "mllama_vision_model", "image_size": 560, "max_num_tiles": 4, "torch_dtype": "bfloat16"},
}
IDEFICS2 = {
    "model_type": "idefics2",
    "architectures": ["Idefics2ForConditionalGeneration"],
    "image_token_id": 32001,
    "perceiver_config": {"model_type": "idefics2", "resampler_depth": 3, "resampler_head_dim": 96, "resampler_n_heads": 16, "resampler_n_latents": 64},
    "text_config": {"model_type": "mistral", "max_position_embeddings": 32768, "pad_token_id": 0, "rms_norm_eps": 1e-5, "vocab_size": 32003},
    "tie_word_embeddings": False,
    "vision_config": {
        "model_type": "idefics2",
        "hidden_size": 1152,
        "image_size": 980,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
    },
}


def llava(text: dict[str, Any], **said: Any) -> dict[str, Any]:
    return {"model_type": "llava", "image_token_index": 32000, "text_config": text, "vision_config": CLIP_336, **said}


VICUNA = {"model_type": "llama", "_name_or_path": "lmsys/vicuna-7b-v1.5", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "vocab_size": 32064}
NEMO = {
    "model_type": "mistral",
    "head_dim": 128,
    "hidden_size": 5120,
    "intermediate_size": 14336,
    "max_position_embeddings": 1024000,
    "num_hidden_layers": 40,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000000.0,
    "sliding_window": None,
    "vocab_size": 131072,
}
PIXTRAL = {"model_type": "pixtral", "head_dim": 64, "hidden_act": "silu", "image_size": 1024}
OPT = {
    "model_type": "opt",
    "hidden_size": 2560,
    "ffn_dim": 10240,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "word_embed_proj_dim": 2560,
    "vocab_size": 50304,
}
SIZES = {
    "llava-1.5-7b": (llava(VICUNA), 7_063_427_072, 4096),
    "llava-1.6-7b": (
        llava(VICUNA) | {"model_type": "llava_next", "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]},
        7_063_431_168,
        4096,
    ),
    "pixtral-12b": (
        llava(NEMO, vision_feature_layer=-1, vision_feature_select_strategy="full", image_token_index=10) | {"vision_config": PIXTRAL},
        12_682_739_712,
        1_024_000,
    ),
    "qwen2-vl-7b": (QWEN2_VL, 8_291_375_616, 32768),
    "llama-3.2-11b-vision": (MLLAMA, 10_670_220_835, 131_072),
    "idefics2-8b": (IDEFICS2, 8_402_768_112, 4096),
    "blip2-opt-2.7b": (
        {"model_type": "blip-2", "num_query_tokens": 32, "qformer_config": {"model_type": "blip_2_qformer"}, "text_config": OPT, "vision_config": EVA},
        3_744_761_856,
        2048,
    ),
}
"""config.json, unique parameters as published, longest sequence."""


@pytest.mark.parametrize("name", SIZES)
def test_published_settings_build_what_was_published(name: str) -> None:
    said, parameters, longest = SIZES[name]
    config = format_of(said, name).read(Published(folder=Path(name), said=said))
    assert sum(tensor.numel() for tensor in blank(config).parameters()) == parameters
    assert config.max_tokens == longest


def test_counts_of_pictures_are_the_published_ones() -> None:
    found = {}
    for name, (said, _, _) in SIZES.items():
        settings: dict[str, Any] = {"do_image_splitting": False} if name.startswith("idefics2") else {}
        config = format_of(said, name).read(Published(folder=Path(name), said=said, preprocessor=settings))
        measure = config.measure(1000, 600)
        found[name] = measure.memory if config.fusion.kind == "gated-cross-attention" else measure.decoder
    assert found == {
        "llava-1.5-7b": 576,
        "llava-1.6-7b": 1948,
        "pixtral-12b": 2432,
        "qwen2-vl-7b": 756,
        "llama-3.2-11b-vision": 4 * 1601,
        "idefics2-8b": 64 + 2,
        "blip2-opt-2.7b": 32,
    }


def test_the_original_repositories_use_the_same_name_for_something_else() -> None:
    original = {"model_type": "llava", "mm_vision_tower": "openai/clip-vit-large-patch14-336", "hidden_size": 4096}
    with pytest.raises(Refused, match="model/native-format"):
        format_of(original, "liuhaotian/llava-v1.5-7b")
