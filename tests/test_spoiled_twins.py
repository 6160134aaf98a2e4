"""The benchmark of spoiled twins: what it spoils, at toy size, and the whole acceptance as a slow test."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import spoiled_twins as twins

from sightline.data.scenes import Scenes
from sightline.data.steps import make_layout
from sightline.model.processor import Processor


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("twins") / "layout"
    make_layout(Scenes(count=6, size=twins.SIZE, text_share=0.0, val_share=0.0, test_share=0.0), out)
    return out


def test_every_picture_stands_under_another_name(layout: Path, tmp_path: Path) -> None:
    spoiled = twins.shuffled(layout, tmp_path / "shuffled")
    before, after = ({path.name: path.read_bytes() for path in (folder / "images").iterdir()} for folder in (layout, spoiled))
    assert sorted(before.values()) == sorted(after.values()) and all(before[name] != after[name] for name in before)
    assert all((spoiled / "labelTxt" / path.name).read_bytes() == path.read_bytes() for path in (layout / "labelTxt").iterdir())


def test_corners_are_transposed_and_pictures_are_not(layout: Path, tmp_path: Path) -> None:
    spoiled = twins.transposed(layout, tmp_path / "transposed")
    for path in (layout / "labelTxt").iterdir():
        for line, other in zip(path.read_text().splitlines(), (spoiled / "labelTxt" / path.name).read_text().splitlines(), strict=True):
            words, turned = line.split(), other.split()
            if len(words) >= 9:
                assert [float(word) for word in turned[:8]] == [float(words[place ^ 1]) for place in range(8)] and turned[8:] == words[8:]
            else:
                assert line == other
    name = next((layout / "images").iterdir()).name
    assert np.array_equal(Image.open(layout / "images" / name), Image.open(spoiled / "images" / name))


def test_the_end_is_not_learnt_inside_and_learnt_again_after() -> None:
    encode = Processor.encode
    with twins.end_not_learnt():
        assert Processor.encode is not encode
    assert Processor.encode is encode


def test_what_is_not_named_and_what_the_healthy_twin_has_is_told() -> None:
    named = {twin: [code] for twin, code in twins.EXPECTED.items()}
    assert twins.verdicts(0, {"healthy": ["failure/region-angle"], **named}) == []
    assert twins.verdicts(0, {"healthy": [], **named, "endless": []}) == ["seed 0: endless was not named by failure/endless"]
    assert twins.verdicts(1, {"healthy": ["failure/no-picture"], **named}) == ["seed 1: the healthy twin has failure/no-picture"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_spoiling_is_named_and_none_on_the_healthy_twin(seed: int, tmp_path: Path) -> None:
    assert twins.verdicts(seed, twins.judged(seed, tmp_path, 1.0, list(twins.EXPECTED))) == []
