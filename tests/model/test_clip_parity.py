"""A dual tower read from a whole published CLIP checkpoint gives CLIP's own vectors and scale."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel

from sightline.errors import Refused
from sightline.model.batch import Pictures, SideTexts
from sightline.model.encoders import EncoderConfig, Read
from sightline.model.text_tower import TextEncoderConfig
from sightline.model.tiling import WholeTiler

TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
END = 63


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CLIPModel]:
    torch.manual_seed(0)
    text = {**TOWER, "vocab_size": 64, "max_position_embeddings": 12, "bos_token_id": 62, "eos_token_id": END}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config={**TOWER, "hidden_size": 20, "image_size": 16, "patch_size": 8}, projection_dim=10)).eval()
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    return folder, model


@torch.no_grad()
def test_vectors_and_scale_are_those_of_clip(clip: tuple[Path, CLIPModel]) -> None:
    folder, reference = clip
    encoder_config = EncoderConfig(checkpoint=str(folder), reads={"text_encoder": Read(lead="keep", final_norm=True)}).resolve()
    encoder = encoder_config.build().eval()
    tower = TextEncoderConfig(checkpoint=str(folder), width=10, pictures="first").build(20).eval()
    crops = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    tiling = WholeTiler(size=16).tile(16, 16)
    features = encoder(Pictures(tilings=(tiling,) * 3, picture_of=torch.arange(3), pixels=tuple(crops)), encoder_config.read("text_encoder"))
    pixels = (crops - encoder.mean) / encoder.std
    ids = torch.tensor([[62, 5, 6, 7, END], [62, 9, END, 0, 0]])
    lengths = torch.tensor([5, 3])
    wanted = reference(input_ids=ids, pixel_values=pixels, attention_mask=(torch.arange(5) < lengths[:, None]).long())
    torch.testing.assert_close(tower.embed_pictures(features)[:, 0], normalize(wanted.image_embeds, dim=-1), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        tower.embed_texts(SideTexts(ids=ids, lengths=lengths, picture_of=torch.zeros(2))), normalize(wanted.text_embeds, dim=-1), rtol=0, atol=1e-5
    )
    assert tower.scale.item() == reference.logit_scale.item()


def test_projections_of_another_width_are_refused(clip: tuple[Path, CLIPModel]) -> None:
    with pytest.raises(Refused, match=r"(?s)text_projection\.weight\n  found:   shape \(10, 16\).*allowed: shape \(12, 16\).*visual_projection\.weight"):
        TextEncoderConfig(checkpoint=str(clip[0]), width=12, pictures="first").build(20)
