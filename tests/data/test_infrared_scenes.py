"""Made scenes with a near-infrared band: the same pictures as without it, and nets that nothing else shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from sightline.data.readers.label_masks import LabelMasks
from sightline.data.reading import read_sets, sets_of
from sightline.data.scenes import BANDS, CLASSES, HIDDEN, Scenes, compose, make
from sightline.samples.pictures import band_pixels, pixels
from sightline.samples.store import Store


def test_colours_stay_and_nets_are_dark_beyond_them() -> None:
    plain, beyond = Scenes(count=30, seed=9), Scenes(count=30, seed=9, infrared=True)
    contrast, seen = [], 0
    for index in range(30):
        one, two = compose(plain, index), compose(beyond, index)
        assert np.array_equal(one.picture, two.picture[..., :3]) and two.picture.shape[2] == 4
        assert all(a.label == b.label and np.array_equal(a.corners, b.corners) for a, b in zip(one.objects, two.objects))
        net = two.mask == len(CLASSES)
        assert np.array_equal(one.mask[~net], two.mask[~net]) and not one.instances[net].any()
        assert [placed.label for placed in two.objects[len(one.objects) :]] == [HIDDEN] * (len(two.objects) - len(one.objects))
        seen += len(two.objects) > len(one.objects)
        if net.any():
            ground = one.instances == 0
            contrast.append(two.picture[..., 3][ground & ~net].mean() - two.picture[..., 3][net].mean())
            assert HIDDEN in two.captions[0]
    assert seen >= 24 and min(contrast) > 30
    assert np.array_equal(compose(beyond, 3).picture, compose(beyond, 3).picture)


def test_four_bands_are_written_and_read(tmp_path: Path) -> None:
    config = Scenes(count=3, seed=2, size=64, infrared=True)
    make(config, tmp_path / "made", workers=1)
    read_sets(sets_of([(LabelMasks(), tmp_path / "made")]), tmp_path / "store", on_problem="refuse")
    for index, sample in enumerate(Store.open(tmp_path / "store")):
        scene = compose(config, index)
        [picture] = sample.pictures
        assert picture.bands == BANDS and np.array_equal(pixels(picture), scene.picture)
        assert np.array_equal(band_pixels(picture, BANDS[2:]), scene.picture[..., 2:])
        assert {region.label for region in sample.annotations} == {scene.ground, *(placed.label for placed in scene.objects)}
    assert json.loads((tmp_path / "made" / "dataset_scenes.json").read_text())["images"][0]["filename"] == "00000.tif"
