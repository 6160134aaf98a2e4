"""CLIP and SigLIP against transformers: similarities, the contrastive loss and its gradient."""

from __future__ import annotations

from typing import Any

import torch
from parity_cases import CLIP_MEAN, CLIP_STD, HALVES, ROWS, TOWER, Pair, compare_values, paired, paired_texts, there, tokenizer_for
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from sightline.model.assembly import ModelConfig
from sightline.model.chat import ChatFormat
from sightline.model.encoders import EncoderConfig, Read
from sightline.model.native.native_table import NATIVE_FORMATS
from sightline.model.text_tower import TextEncoderConfig
from sightline.model.tiling import WholeTiler
from sightline.train.objectives import Contrastive

PAIRS = ChatFormat(name="pairs", end="</s>")
SAID = ("Three ships in the harbor.", "a photo of the harbor, two ships and a long quay", "Where?")
TEXT: dict[str, Any] = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
KEYS = ("k_proj.bias",)


def contrast(pair: Pair, loss: Any, mean: Any, std: Any) -> None:
    """All of it close, for three pairs of which the texts differ in length."""
    batch = paired_texts(pair, *SAID)
    assert batch.texts is not None
    output = pair.model(batch, ask="embed")
    texts = pair.model.text_encoder
    scores = torch.einsum("pqe,xe->px", output.pictures, output.texts) * texts.scale.exp() + (texts.bias if texts.bias is not None else 0)
    ours = Contrastive(loss=loss).build()(pair.model, batch).sums["contrastive"] / len(SAID)
    given = {"input_ids": batch.texts.ids, "pixel_values": torch.stack(pair.pixels(batch, mean, std))}
    if not pair.model.config.text_encoder.padded:
        given["attention_mask"] = there(batch.texts)
    theirs = pair.theirs(**given, return_loss=True)
    compare_values(pair, (scores, ours), (theirs.logits_per_image, theirs.loss), KEYS).check(KEYS)


def test_clip() -> None:
    config = ModelConfig(
        encoders=[EncoderConfig(config={"model_type": "clip_vision_model", **TOWER}, reads={"text_encoder": Read(lead="keep", final_norm=True)})],
        tiler=WholeTiler(size=28, fit="crop"),
        text_encoder=TextEncoderConfig(config={"model_type": "clip_text_model", **TEXT}, width=24, pictures="first", max_tokens=64),
        chat=PAIRS,
    ).resolve()
    end = tokenizer_for(config).end_id
    theirs = CLIPConfig(text_config={**TEXT, "eos_token_id": end, "pad_token_id": 0}, vision_config=TOWER, projection_dim=24)
    pair = paired(config, lambda: CLIPModel(theirs), NATIVE_FORMATS["clip"].rules(config))
    contrast(pair, "softmax", CLIP_MEAN, CLIP_STD)


def test_siglip() -> None:
    config = ModelConfig(
        encoders=[EncoderConfig(config={"model_type": "siglip_vision_model", **TOWER, "vision_use_head": False}, final_norm=True)],
        tiler=WholeTiler(size=28, fit="squash"),
        text_encoder=TextEncoderConfig(
            config={"model_type": "siglip_text_model", **TEXT, "projection_size": 32},
            width=32,
            texts="head",
            pictures="probe",
            heads=4,
            inner=64,
            padded=True,
            loss="sigmoid",
            max_tokens=24,
        ),
        chat=PAIRS,
    ).resolve()
    theirs = SiglipConfig(text_config={**TEXT, "projection_size": 32}, vision_config=TOWER)
    pair = paired(config, lambda: SiglipModel(theirs), NATIVE_FORMATS["siglip"].rules(config))
    contrast(pair, "sigmoid", HALVES, HALVES)
