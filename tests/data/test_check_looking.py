"""One look at a picture: the same hashes as the slow way, near duplicates under rotation, hostile bytes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.data.check.check_config import CheckConfig
from sightline.data.check.looking import glance, seen
from sightline.data.check.picture_rules import constant_band, no_data, picture_mode
from sightline.data.check.row_facts import RowFacts
from sightline.data.hashing import PictureHashes, distance, near_pairs, picture_hashes
from sightline.samples.geo_tiff import encode_tiff
from sightline.samples.sample import Origin, Sample


def blocks(seed: int, side: int = 256) -> np.ndarray:
    """A picture of random blocks, (side, side, 3) uint8."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return small.repeat(side // 8, 0).repeat(side // 8, 1)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def prints(data: bytes) -> PictureHashes:
    one = glance(data, "name")
    assert one is not None
    return PictureHashes.of_text(seen([one])[0].prints)


@pytest.mark.parametrize("seed", range(5))
def test_hashes_are_those_of_the_whole_picture(seed: int) -> None:
    """PNG is decoded whole: the batch gives bit for bit what `picture_hashes` gives for all eight orientations."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (61, 83, 3), dtype=np.uint8)
    mine, slow = prints(encoded(pixels)), picture_hashes(pixels)
    assert (mine.dct == slow.dct).all() and (mine.gradient == slow.gradient).all() and mine.flat == slow.flat


def test_many_are_hashed_as_one() -> None:
    glances = [one for seed in range(4) if (one := glance(encoded(blocks(seed)), str(seed))) is not None]
    assert [facts.prints for facts in seen(glances)] == [seen([one])[0].prints for one in glances]
    assert seen([]) == []


def test_reduced_jpeg_is_near_the_whole_one(shared_data: Path) -> None:
    """A JPEG decoded at a quarter of its size has nearly the hashes of the whole one: at most 4 bits on these, one on average."""
    apart = []
    for path in sorted((shared_data / "rsicd" / "RSICD_images").glob("port_*.jpg")):
        data = path.read_bytes()
        mine, slow = prints(data), picture_hashes(Image.open(io.BytesIO(data)))
        apart.append(max(int(distance(mine.dct[:1], slow.dct[:1])[0]), int(distance(mine.gradient[:1], slow.gradient[:1])[0])))
    assert max(apart) <= 4 and np.mean(apart) < 1.5


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("turn", range(4))
def test_turned_copies_are_near(turn: int, flip: bool) -> None:
    """A copy that was turned, mirrored, made smaller and compressed is found among others; the others are not."""
    pixels = blocks(0)
    copy = np.rot90(pixels[:, ::-1] if flip else pixels, turn)
    small = np.asarray(Image.fromarray(copy).resize((100, 100)))
    pictures = [encoded(blocks(seed)) for seed in range(6)] + [encoded(small, "JPEG", quality=60)]
    pairs = list(near_pairs([prints(data) for data in pictures]))
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 6)]
    assert pairs[0].turned == (turn != 0 or flip)


def test_facts_of_a_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.fromarray(blocks(1)[:128]).save(stream, "JPEG", exif=exif)
    one = glance(stream.getvalue(), "turned.jpg")
    assert one is not None
    assert (one.facts.width, one.facts.height, one.facts.orientation, one.facts.mode) == (128, 256, 6, "RGB")


@pytest.mark.parametrize(("pixels", "grey"), [(blocks(2), False), (blocks(2)[..., :1].repeat(3, -1), True)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_grey_is_seen_whatever_compression_does(pixels: np.ndarray, grey: bool, kind: str) -> None:
    one = glance(encoded(pixels, kind), "")
    assert one is not None
    assert seen([one])[0].grey == grey


@pytest.mark.parametrize("cut", [0, 1, 10, 100, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_truncated_pictures_are_not_seen(kind: str, cut: float) -> None:
    """All bytes of a reduced JPEG are read: half a file is no picture."""
    rng = np.random.default_rng(0)
    data = encoded(rng.integers(0, 256, (200, 200, 3), dtype=np.uint8), kind)
    assert glance(data[: int(cut * len(data)) if isinstance(cut, float) else cut], "") is None


def test_sixteen_bits_are_left_to_the_reader() -> None:
    stream = io.BytesIO()
    Image.fromarray(np.arange(10000, dtype=np.uint16).reshape(100, 100)).save(stream, "PNG")
    assert glance(stream.getvalue(), "") is None


def test_a_jpeg_of_red_green_and_blue_is_seen_as_well() -> None:
    """Such a file holds no Y, so it is decoded once more; its hashes are those of the same pixels."""
    pixels = blocks(5)
    own, usual = encoded(pixels, "JPEG", keep_rgb=True, quality=95), encoded(pixels, "JPEG", quality=95)
    assert own != usual and distance(prints(own).dct[:1], prints(usual).dct[:1])[0] <= 2
    assert glance(own[: len(own) // 2], "") is None


def test_bands_that_say_nothing_and_no_data_are_seen() -> None:
    array = np.random.default_rng(0).integers(1, 4000, (64, 64, 4)).astype(np.uint16)
    array[..., 3] = 7
    array[:20] = 0
    array[:, :, 3] = 0
    looked = glance(encode_tiff(array, ("red", "green", "blue", "nir")), "a.tif")
    assert looked is not None
    [facts] = seen([looked])
    assert (facts.bands, facts.depth, facts.constant) == (("red", "green", "blue", "nir"), "uint16", ("nir",)) and facts.nodata == 20 / 64 and facts.prints
    row = RowFacts(place="here", data_set=0, pictures=(facts,))
    sample = Sample(id="1", origin=Origin(source="set"))
    config = CheckConfig()
    assert [one.found for one in constant_band(sample, row, config)] == ["nir of red, green, blue, nir"]
    assert [one.found for one in no_data(sample, row, config)] == ["31% of the px"]
    assert list(no_data(sample, row, CheckConfig(nodata=0.5))) == [] and list(picture_mode(sample, row, config)) == []
