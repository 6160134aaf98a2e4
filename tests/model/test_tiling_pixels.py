"""Pixels of the tiler `whole`, exactly: those of transformers' image processors before they are normalised, and those of Pillow's own steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import transformers as hf
from PIL import Image

from sightline.model.tiling import WholeTiler, cut

SIZES = [(61, 33), (33, 61), (100, 75), (75, 100), (57, 30), (31, 29), (20, 9), (13, 200), (640, 427), (301, 300), (28, 28), (28, 41), (90, 90), (5, 4)]
"""Among them margins of an odd number of px, fractions of a px that round up and down, sides that are enlarged, and squares."""
FILTERS: dict[str, Image.Resampling] = {name: Image.Resampling[name.upper()] for name in ("nearest", "bilinear", "bicubic", "lanczos")}


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)


def ours(tiler: WholeTiler, picture: np.ndarray) -> np.ndarray:
    [crop] = cut(picture, tiler.tile(picture.shape[1], picture.shape[0]))
    return crop


def theirs(processor: Any, picture: np.ndarray) -> np.ndarray:
    [pixels] = processor([Image.fromarray(picture)], do_rescale=False, do_normalize=False)["pixel_values"]
    assert pixels.dtype == np.uint8
    return pixels


def sides(side: int, kind: str) -> dict[str, Any]:
    return {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}, "resample": FILTERS[kind]}


def padded(picture: np.ndarray, fill: tuple[int, int, int]) -> Image.Image:
    """On a square of its longest side, by Pillow; of an odd margin the smaller half comes first."""
    height, width = picture.shape[:2]
    square = Image.new("RGB", (max(width, height),) * 2, fill)
    square.paste(Image.fromarray(picture), ((square.width - width) // 2, (square.height - height) // 2))
    return square


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("side", "kind"), [(28, "bicubic"), (33, "bilinear")])
def test_the_centre_crop_is_clips(size: tuple[int, int], side: int, kind: Any) -> None:
    picture = noise(*size)
    found = ours(WholeTiler(size=side, fit="crop", filter=kind), picture)
    assert np.array_equal(found, theirs(hf.CLIPImageProcessorPil(**sides(side, kind)), picture))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("side", "kind"), [(28, "bicubic"), (33, "lanczos")])
def test_the_padded_square_is_llavas(size: tuple[int, int], side: int, kind: Any) -> None:
    picture = noise(*size)
    found = ours(WholeTiler(size=side, fit="pad", filter=kind), picture)
    assert np.array_equal(found, theirs(hf.LlavaImageProcessorPil(**sides(side, kind), do_pad=True), picture))


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_padding_and_squashing_are_pillows(size: tuple[int, int], kind: Any) -> None:
    picture, fill = noise(*size), (7, 200, 31)
    square = padded(picture, fill).resize((30, 30), FILTERS[kind])
    assert np.array_equal(ours(WholeTiler(size=30, fit="pad", filter=kind, fill=fill), picture), np.asarray(square).transpose(2, 0, 1))
    squashed = Image.fromarray(picture).resize((30, 30), FILTERS[kind])
    assert np.array_equal(ours(WholeTiler(size=30, fit="squash", filter=kind), picture), np.asarray(squashed).transpose(2, 0, 1))


@pytest.mark.parametrize(("size", "alike"), [((4096, 8), True), ((4097, 8), False), ((4100, 2050), True), ((2049, 4100), False)], ids=str)
def test_up_to_which_size_a_picture_is_padded_first(size: tuple[int, int], alike: bool) -> None:
    """Beyond both 4096 px and 2:1 it is resized first, which shows at its edges."""
    picture = noise(*size)
    found = ours(WholeTiler(size=24, fill=(0, 0, 255)), picture)
    expected = np.asarray(padded(picture, (0, 0, 255)).resize((24, 24), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.array_equal(found, expected) == alike
