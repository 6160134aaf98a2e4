"""The refiner's module on several backbones and bands, its directory, and its crops at work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_refine_pictures import coloured

from sightline.errors import Refused
from sightline.lineage import artifact
from sightline.model.encoders import EncoderConfig
from sightline.refine.box_masks import filled
from sightline.refine.crop_decoder import SMALL_TOWER, CropDecoder
from sightline.refine.crop_refiner import CropRefiner
from sightline.refine.crops import prompted_crop
from sightline.refine.refiner_directory import load_segmenter, open_refiner, save_refiner
from sightline.samples.geometry import decode_mask
from sightline.samples.pictures import describe, encoded, pixels
from sightline.samples.sample import Box, Mask, Region, RotatedBox
from sightline.samples.upright_crops import TurnedBox, Window, box_around

DINO: dict[str, Any] = {
    "model_type": "dinov2",
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "mlp_ratio": 2,
    "image_size": 28,
    "patch_size": 14,
}
CONVNEXT: dict[str, Any] = {"model_type": "convnext", "hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "patch_size": 4}
FOUR = {"bands": ("red", "green", "blue", "nir"), "mean": (0.5,) * 4, "std": (0.25,) * 4}
TINY = CropDecoder(
    size=32, width=16, stem=8, depth=1, encoder=EncoderConfig(config=SMALL_TOWER | {"hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8})
)


@pytest.mark.parametrize(
    ("encoder", "size", "widths"),
    [
        (EncoderConfig(config=DINO, layer=(1, 3)), 56, [32, 32]),
        (EncoderConfig(config=DINO, **FOUR), 28, [32]),
        (EncoderConfig(config=CONVNEXT), 32, [8, 16]),
        (TINY.encoder.model_copy(update=FOUR), 32, [8, 16]),
    ],
)
def test_logits_have_the_resolution_of_the_crop(encoder: EncoderConfig, size: int, widths: list[int]) -> None:
    model = CropDecoder(size=size, width=16, stem=8, depth=1, encoder=encoder).build()
    bands = len(encoder.bands)
    assert model.config.widths() == widths and [found.shape[1] for found in model.encoder.maps(torch.rand(2, bands, size, size))] == widths
    logits = model(torch.rand(2, bands, size, size) * 255, torch.rand(2, 3, size, size))
    assert logits.shape == (2, 1, size, size)
    logits.sum().backward()
    assert [name for name, p in model.decoder.named_parameters() if p.grad is None] == []


def test_maps_are_the_hidden_states_of_the_published_class() -> None:
    encoder = EncoderConfig(config=DINO, layer=(1, 3)).build().eval()
    crops = torch.rand(2, 3, 56, 28) * 255
    maps = encoder.maps(crops)
    normalised = (crops - encoder.mean) / encoder.std
    states = encoder.tower(normalised, output_hidden_states=True).hidden_states
    for found, layer in zip(maps, (1, 3)):
        assert found.shape == (2, 32, 4, 2)
        assert torch.allclose(found.flatten(2).transpose(1, 2), states[layer][:, 1:], atol=1e-5)


def test_a_size_that_patches_do_not_divide_is_refused_with_one_that_they_do() -> None:
    with pytest.raises(Refused, match="size: 84") as caught:
        CropDecoder(size=64, encoder=EncoderConfig(config=DINO)).build()
    assert caught.value.problems[0].code == "refine/crop-size"


def test_the_directory_gives_back_the_same_refiner(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = TINY.build().eval()
    with artifact(tmp_path / "model") as folder:
        save_refiner(folder, model)
    again = open_refiner(tmp_path)
    assert again.id == CropRefiner(model).id and isinstance(again, CropRefiner)
    region = [Region(label="x", shape=RotatedBox(cx=20, cy=15, w=14, h=8, theta=25))]
    assert again.refine(coloured(40, 30, disc=(20, 15, 5)), region) == CropRefiner(model).refine(coloured(40, 30, disc=(20, 15, 5)), region)
    (tmp_path / "model" / "decoder.safetensors").unlink()
    with pytest.raises(Refused, match="refine/broken-refiner"):
        load_segmenter(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(Refused, match="sightline_refiner, sam, seggpt"):
        open_refiner(tmp_path)
    with pytest.raises(Refused, match="refine/no-refiner"):
        open_refiner(tmp_path / "nothing")


class Echo(torch.nn.Module):
    """Says of every pixel whether it is inside the box that it is shown."""

    def __init__(self, config: CropDecoder, scale: float = 20.0) -> None:
        super().__init__()
        self.config, self.scale, self.fill = config.resolve(), torch.nn.Parameter(torch.tensor(scale)), (0.0, 0.0, 0.0)

    def parts(self) -> dict[str, Any]:
        return {}

    def forward(self, crops: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        assert crops.shape[2:] == prompts.shape[2:] == (self.config.size, self.config.size)
        return (prompts[:, :1] - 0.5) * self.scale


@pytest.mark.parametrize(
    "box",
    [
        Box(x0=10, y0=12, x1=31, y1=40),
        RotatedBox(cx=45, cy=20, w=70, h=24, theta=33),
        RotatedBox(cx=60, cy=70, w=190, h=60, theta=-71),
        Box(x0=2, y0=2, x1=5, y1=4),
    ],
)
def test_masks_lie_where_their_boxes_do(box: Box | RotatedBox) -> None:
    refiner = CropRefiner(Echo(CropDecoder(size=64, coarsest=1.5, finest=0.25)))  # pyright: ignore[reportArgumentType]
    picture = coloured(100, 90)
    [region] = refiner.refine(picture, [Region(label="a", shape=box)])
    turned = box_around(box)
    assert isinstance(region.shape, Mask) and turned is not None
    found, expected = decode_mask(region.shape), filled(turned, 100, 90)
    edge = filled(replace(turned, w=turned.w + 2, h=turned.h + 2), 100, 90) & ~filled(
        replace(turned, w=max(0.1, turned.w - 2), h=max(0.1, turned.h - 2)), 100, 90
    )
    assert not ((found != expected) & ~edge).any() and (found & expected).sum() >= 0.8 * expected.sum()


def test_a_model_of_four_bands_needs_four() -> None:
    refiner = CropRefiner(TINY.model_copy(update={"encoder": TINY.encoder.model_copy(update=FOUR)}).build())
    boxes = [Region(shape=Box(x0=4, y0=4, x1=20, y1=16))]
    with pytest.raises(Refused, match="samples/missing-band"):
        refiner.refine(coloured(30, 24), boxes)
    rng = np.random.default_rng(0)
    four = describe(encoded(rng.integers(0, 256, (24, 30, 4), dtype=np.uint8), FOUR["bands"]), "p", "p")
    [found] = refiner.refine(four, boxes)
    assert isinstance(found.shape, Mask)
    deep = describe(encoded(pixels(four).astype(np.uint16) * 257, FOUR["bands"]), "p", "p")
    [again] = refiner.refine(deep, boxes)
    assert deep.depth == "uint16" and again.shape == found.shape


def test_the_prompt_says_where_the_box_is() -> None:
    window, box = Window(cx=20.0, cy=10.0, theta=0.0, scale=0.5, width=40, height=40), TurnedBox(cx=20, cy=10, w=8, h=4)
    crop = prompted_crop(np.full((18, 60, 3), 9, np.uint8), window, box, (1, 2, 3))
    inside, distance, valid = crop.prompt
    assert inside.sum() == 16 * 8 and inside[20, 20] == 1 and inside[20, 30] == 0
    assert distance[20, 20] == pytest.approx((0.5 - 4) / 10) and distance[20, 39] == 1 and distance[0, 20] == 1
    assert valid[20, 20] == 1 and (valid[1:35] == 1).all() and (valid[38:] == 0).all() and crop.values[:, 39, 5].tolist() == [1, 2, 3]


def test_a_plain_segmentation_model_marks_the_region_s_label_inside_the_box() -> None:
    config = TINY.model_copy(update={"predicts": "classes", "classes": ("ground", "pond")})
    model = config.build().eval()
    crops, prompts = torch.rand(1, 3, 32, 32) * 255, torch.rand(1, 3, 32, 32)
    moved = torch.cat([prompts[:, :2].flip(3), prompts[:, 2:]], 1)
    assert torch.equal(model(crops, prompts), model(crops, moved)) and model(crops, prompts).shape == (1, 2, 32, 32)
    with torch.no_grad():
        assert model.decoder.out.bias is not None
        model.decoder.out.weight.zero_()
        model.decoder.out.bias.copy_(torch.tensor([0.0] * 4 + [5.0] * 4))  # everything is pond
    shape = Box(x0=4, y0=6, x1=20, y1=16)
    found = CropRefiner(model).refine(coloured(40, 30), [Region(label=label, shape=shape) for label in ("pond", "ground", "unheard of")])
    assert [int(decode_mask(one.shape).sum()) for one in found if isinstance(one.shape, Mask)] == [160, 0, 160]
