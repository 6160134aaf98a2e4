"""SAM and SegGPT behind the refiner's door: tiny random checkpoints, compared with the published classes called by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_refine_pictures import coloured
from transformers import SamConfig, SamModel, SegGptConfig, SegGptForImageSegmentation

from sightline.errors import Refused
from sightline.refine.published_segmenters import Sam, SegGpt
from sightline.refine.refiner_directory import open_refiner
from sightline.samples.geometry import decode_mask
from sightline.samples.pictures import pixels
from sightline.samples.sample import Box, Mask, Point, Region, RotatedBox

MEAN, STD = (torch.tensor(numbers).view(3, 1, 1) for numbers in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sam")
    vision: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 16,
        "output_channels": 16,
        "mlp_dim": 32,
        "window_size": 2,
        "global_attn_indexes": [1],
        "num_pos_feats": 8,
    }
    prompt: dict[str, Any] = {"hidden_size": 16, "image_size": 64, "patch_size": 16, "image_embedding_size": 4, "mask_input_channels": 8}
    decoder: dict[str, Any] = {
        "hidden_size": 16,
        "mlp_dim": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "attention_downsample_rate": 1,
        "iou_head_hidden_dim": 16,
    }
    SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def seggpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("seggpt")
    config = SegGptConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=(64, 32), patch_size=8, pretrain_image_size=32, decoder_hidden_size=8, merge_index=0, intermediate_hidden_state_indices=[1, 2], mlp_dim=32
    )  # fmt: skip
    SegGptForImageSegmentation(config).save_pretrained(folder)
    return folder


def mask_of(region: Region) -> np.ndarray:
    assert isinstance(region.shape, Mask)
    return decode_mask(region.shape)


def normalised(array: np.ndarray) -> torch.Tensor:
    return (torch.from_numpy(array.transpose(2, 0, 1).copy()).float() / 255 - MEAN) / STD


def test_sam_is_asked_as_published(sam: Path) -> None:
    refiner, picture = open_refiner(sam), coloured(64, 64, disc=(30, 30, 12))
    assert isinstance(refiner, Sam)
    boxes = [Box(x0=10, y0=12, x1=50, y1=48), Box(x0=4, y0=4, x1=20, y1=24)]
    found = [mask_of(one) for one in refiner.refine(picture, [Region(shape=box) for box in boxes])]
    with torch.no_grad():
        told = torch.tensor([[[box.x0, box.y0, box.x1, box.y1] for box in boxes]])
        low = refiner.model(pixel_values=normalised(pixels(picture))[None], input_boxes=told, multimask_output=False).pred_masks[0]
        expected = torch.nn.functional.interpolate(low, size=(64, 64), mode="bilinear", align_corners=False)[:, 0] > 0
    assert found[0].any() and all(np.array_equal(one, mask.numpy()) for one, mask in zip(found, expected))
    assert found[0].tolist() != found[1].tolist()


def test_sam_sees_a_turned_box_upright(sam: Path) -> None:
    refiner = Sam(sam)
    turned, upright = RotatedBox(cx=30, cy=25, w=30, h=12, theta=-90), RotatedBox(cx=25, cy=30, w=30, h=12, theta=1e-9)
    picture = coloured(60, 50, disc=(30, 25, 8))
    [one] = refiner.refine(picture, [Region(shape=turned)])
    from sightline.samples.dihedral import turned_pixels

    [other] = refiner.refine(quarter(turned_pixels(pixels(picture), 1)), [Region(shape=upright)])
    assert mask_of(one).shape == (50, 60) and (np.rot90(mask_of(one), -1) != mask_of(other)).mean() < 0.02
    assert refiner.refine(picture, []) == [] and refiner.id == Sam(sam).id != Sam(sam, context=2).id
    with pytest.raises(Refused, match="refine/no-box"):
        refiner.refine(picture, [Region(shape=Point(x=1, y=1))])


def quarter(array: np.ndarray) -> Any:
    from sightline.samples.pictures import describe, encoded

    return describe(encoded(np.ascontiguousarray(array)), "p", "p")


def test_seggpt_is_asked_as_published(seggpt: Path) -> None:
    refiner, picture = open_refiner(seggpt), coloured(32, 32, disc=(16, 16, 6))
    assert isinstance(refiner, SegGpt)
    box = Box(x0=0, y0=0, x1=32, y1=32)
    whole = SegGpt(seggpt, context=1.0)
    [found] = whole.refine(picture, [Region(shape=box)])
    with torch.no_grad():
        seen, white = normalised(pixels(picture)), normalised(np.full((32, 32, 3), 255, np.uint8))
        answer = whole.model(pixel_values=seen[None], prompt_pixel_values=seen[None], prompt_masks=white[None], embedding_type="instance").pred_masks
    expected = (answer[0, :, 32:] * STD + MEAN).mean(0) > 0.5
    assert np.array_equal(mask_of(found), expected.numpy())
    shown: list[str | None] = []

    def example(label: str | None) -> tuple[np.ndarray, np.ndarray]:
        shown.append(label)
        return np.full((20, 24, 3), 200, np.uint8), np.eye(20, 24, dtype=bool)

    [taught] = SegGpt(seggpt, example=example).refine(picture, [Region(label="pond", shape=RotatedBox(cx=16, cy=16, w=14, h=9, theta=20))])
    assert shown == ["pond"] and mask_of(taught).shape == (32, 32)


def test_broken_checkpoints_are_refused(sam: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((sam / "config.json").read_bytes())
    with pytest.raises(Refused, match="model/checkpoint-not-read"):
        open_refiner(tmp_path)
