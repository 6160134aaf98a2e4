"""InternVL against transformers: tiles and thumbnail, read behind the last norm and without one."""

from __future__ import annotations

import pytest
import torch
from parity_cases import PICTURE, TEXT, compare, dialogue, paired, photo, shown
from transformers import InternVLConfig, InternVLForConditionalGeneration, Qwen2Config

from sightline.model.assembly import ModelConfig
from sightline.model.connectors import MlpConnector
from sightline.model.encoders import EncoderConfig
from sightline.model.language import LanguageModelConfig
from sightline.model.layouts import FlatLayout
from sightline.model.native.native_table import NATIVE_FORMATS
from sightline.model.tilers.aspect_grids import InternVlTiler

VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": [28, 28],
    "patch_size": [7, 7],
    "attention_bias": True,
}
KEYS = ("attention.k_proj.bias",)
"""Of the tower; those of the language model are turned by positions and do move something."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SAMPLES = (dialogue([photo(1, 60, 30), photo(2, 20, 20)]), dialogue([photo(3, 30, 90)], "Two ships and a long quay."))


@pytest.mark.parametrize(("layer", "pooled"), [(-1, True), (-1, False), (-2, True)])
def test_tiles_and_thumbnail(layer: int, pooled: bool) -> None:
    vision = {**VISION, "use_mean_pooling": pooled}
    config = ModelConfig(
        encoders=[EncoderConfig(config={"model_type": "internvl_vision", **vision}, layer=layer, final_norm=not pooled)],
        tiler=InternVlTiler(size=28, most=4),
        connector=MlpConnector(depth=2, merge=2, norm=True),
        layout=FlatLayout(begin="<img>", end="</img>"),
        language_model=LanguageModelConfig(config={"model_type": "qwen2", **TEXT}),
        chat="chatml-bare",
    ).resolve()
    theirs = InternVLConfig(
        vision_config=vision, text_config=Qwen2Config(**TEXT), image_token_id=PICTURE, image_seq_length=4, vision_feature_layer=layer, tie_word_embeddings=False
    )
    pair = paired(config, lambda: InternVLForConditionalGeneration(theirs), NATIVE_FORMATS["internvl"].rules(config))
    batch = pair.batch(*SAMPLES)
    assert [len(tiling.crops) for tiling in batch.pictures.tilings] == [3, 1, 4]
    given = shown(batch.decoder) | {"pixel_values": torch.stack(pair.pixels(batch, IMAGENET_MEAN, IMAGENET_STD))}
    compare(pair, batch, given, KEYS).check(KEYS)
