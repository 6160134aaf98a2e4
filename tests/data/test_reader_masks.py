"""Label masks: palettes, colours, instances, and masks that do not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from sightline.data.readers.label_masks import IGNORED, LabelMasks, label_ids
from sightline.data.readers.palettes import PALETTES
from sightline.errors import Problem, Refused
from sightline.samples.geometry import decode_mask, mask_area
from sightline.samples.sample import Box, Mask, Region, Sample


def put(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def put_pair(root: Path, mask: np.ndarray, pictures: str = "images", masks: str = "masks", name: str = "a") -> None:
    put(root / pictures / f"{name}.png", np.zeros((*mask.shape[:2], 3), np.uint8))
    put(root / masks / f"{name}.png", mask)


def read(root: Path, **options: Any) -> list[Sample | Problem]:
    return list(LabelMasks(**options).read(root))


def only(found: list[Sample | Problem]) -> Sample:
    (sample,) = found
    assert isinstance(sample, Sample), str(sample)
    return sample


def areas(sample: Sample) -> dict[str | None, int]:
    return {region.label: mask_area(region.shape) for region in sample.annotations if isinstance(region.shape, Mask) and "instance" not in region.attributes}


def test_numbers_become_one_region_per_class(tmp_path: Path) -> None:
    ids = np.zeros((10, 12), np.uint8)
    ids[2:4, 3:9], ids[5:, :] = 2, 4
    put_pair(tmp_path / "Train" / "Urban", ids, "images_png", "masks_png")
    sample = only(read(tmp_path, labels="loveda"))
    assert areas(sample) == {"building": 12, "water": 60}
    region = sample.annotations[0]
    assert isinstance(region.shape, Mask) and np.array_equal(decode_mask(region.shape), ids == 2) and region.attributes == {"class_id": 2}
    assert sample.id == "Train/Urban/a.png" and sample.attributes == {"split": "train"} and sample.turns == ()


def test_colours_are_matched_exactly() -> None:
    values = np.array([[(0, 0, 63), (0, 0, 0)], [(0, 0, 64), (14, 0, 0)]], np.uint8)
    ids, unknown = label_ids(values, PALETTES["isaid"])
    assert ids.tolist() == [[1, 0], [IGNORED, IGNORED]] and unknown.mean() == 0.5


@given(st.sampled_from(sorted(name for name, palette in PALETTES.items() if palette.rgb)), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_colours_and_numbers_say_the_same(name: str, seed: int) -> None:
    palette = PALETTES[name]
    colours = list(palette.rgb)
    chosen = np.random.default_rng(seed).integers(0, len(colours), (4, 5))
    numbers = np.array([palette.rgb[colour] for colour in colours])[chosen]
    by_colour, unknown = label_ids(np.array(colours, np.uint8)[chosen], palette)
    assert not unknown.any() and np.array_equal(by_colour, label_ids(numbers, palette)[0])
    assert np.array_equal(by_colour == IGNORED, np.isin(numbers, list(palette.ignore)))


def test_swapped_colours_are_refused(tmp_path: Path) -> None:
    rgb = np.zeros((10, 10, 3), np.uint8)
    rgb[:] = (159, 129, 183)
    put_pair(tmp_path, rgb[..., ::-1])
    (problem,) = read(tmp_path, labels="loveda")
    assert isinstance(problem, Problem) and problem.code == "data/unknown-labels" and problem.severity == "refuse"
    assert "100.0% of 100 px hold a value outside the palette" in str(problem) and "swap of red and blue" in problem.fix


def test_a_few_unknown_pixels_are_ignored_counted_and_named(tmp_path: Path) -> None:
    ids = np.full((20, 20), 3, np.uint8)
    ids[0, :4] = 99
    put_pair(tmp_path, ids)
    warning, sample = read(tmp_path, labels="loveda")
    assert isinstance(warning, Problem) and warning.severity == "warn" and "4 px outside the palette" in warning.found
    assert isinstance(sample, Sample) and areas(sample) == {"road": 396}


def test_instances_have_the_class_of_most_of_their_pixels(tmp_path: Path) -> None:
    ids, instances = np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint16)
    ids[0:2, 0:2], ids[5:8, 5:8], ids[0, 0] = 6, 7, 0
    instances[0:2, 0:2], instances[5:8, 5:8], instances[9, 9] = 1, 300, 5
    put_pair(tmp_path, ids)
    put(tmp_path / "instances" / "a.png", instances)
    warning, sample = read(tmp_path, labels="scenes")
    assert isinstance(warning, Problem) and "instances [5] lie on pixels without a label" in warning.found
    assert isinstance(sample, Sample)
    found = [
        (region.label, region.attributes["instance"], mask_area(region.shape))
        for region in sample.annotations
        if "instance" in region.attributes and isinstance(region.shape, Mask)
    ]
    assert found == [("tank", 1, 4), ("vehicle", 300, 9)]


def test_names_from_classes_json(tmp_path: Path) -> None:
    put_pair(tmp_path, np.array([[0, 1], [2, 2]], np.uint8).repeat(6, 0).repeat(6, 1))
    classes = [{"id": 0, "name": "ignore"}, {"id": 1, "name": "pond", "rgb": [1, 2, 3]}, {"id": 2, "name": "road"}]
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    assert areas(only(read(tmp_path))) == {"pond": 36, "road": 72}
    assert areas(only(read(tmp_path, labels={0: "sand", 1: "pond", 2: "road"}, ignore=[1]))) == {"sand": 36, "road": 72}


def test_suffixes_of_published_names(tmp_path: Path) -> None:
    put(tmp_path / "images" / "top_1_RGB.tif", np.zeros((10, 10, 3), np.uint8))
    put(tmp_path / "labels" / "top_1_label.tif", np.full((10, 10, 3), 255, np.uint8))
    assert areas(only(read(tmp_path, labels="potsdam", picture_suffix="_RGB", mask_suffix="_label"))) == {"impervious surface": 100}


def test_pictures_and_masks_without_their_partner(tmp_path: Path) -> None:
    put_pair(tmp_path, np.ones((10, 10), np.uint8))
    put(tmp_path / "images" / "b.png", np.zeros((10, 10, 3), np.uint8))
    put(tmp_path / "masks" / "c.png", np.zeros((10, 10), np.uint8))
    found = read(tmp_path, labels="loveda")
    assert isinstance(found[0], Sample)
    assert [problem.code for problem in found if isinstance(problem, Problem)] == ["data/missing-mask", "data/missing-picture"]
    assert "no mask b in" in str(found[1]) and "masks/c.png" in str(found[2])


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    put(tmp_path / "images" / "a.png", np.zeros((10, 12, 3), np.uint8))
    put(tmp_path / "masks" / "a.png", np.zeros((12, 10), np.uint8))
    (problem,) = read(tmp_path, labels="loveda")
    assert isinstance(problem, Problem) and problem.code == "data/mask-size"
    assert (problem.found, problem.allowed) == ("10x12 px", "12x10 px, the size of the upright picture")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"data/labels-missing .*\n +found: +values 1, which fit loveda, isaid, .* and no name that says which is meant\n +allowed: loveda, "),
        ({"labels": "lovda"}, r"data/unknown-palette at labels\n +found: +'lovda'(.|\n)*did you mean 'loveda'\?"),
        ({"masks": "m", "pictures": "p"}, r"data/no-mask-folders .*\n +found: +no pair of folders"),
    ],
)
def test_sets_that_cannot_be_read_at_all(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    put_pair(tmp_path, np.ones((10, 10), np.uint8))
    with pytest.raises(Refused, match=message):
        read(tmp_path, **options)


IDS = arrays(np.uint8, (12, 12), elements=st.sampled_from([0, 1, 3, 7, 200]))


@given(IDS, arrays(np.uint8, (12, 12), elements=st.integers(0, 2)))
@settings(deadline=None, max_examples=30)
def test_what_is_written_comes_back(tmp_path_factory: pytest.TempPathFactory, ids: np.ndarray, instances: np.ndarray) -> None:
    root = tmp_path_factory.mktemp("masks")
    instances = np.where(ids == 0, 0, instances).astype(np.uint8)
    put_pair(root / "a" / "train", ids)
    put(root / "a" / "train" / "instances" / "a.png", instances)
    (root / "a" / "train" / "classes.json").write_text(json.dumps([{"id": 0, "name": "ignore"}, *({"id": k, "name": f"c{k}"} for k in (1, 3, 7, 200))]))
    sample = only(read(root / "a", source="s"))
    assert LabelMasks().write([sample], root / "b") == []
    assert only(read(root / "b", source="s")) == sample


def test_what_masks_cannot_hold_is_named(tmp_path: Path) -> None:
    put_pair(tmp_path / "a", np.ones((10, 10), np.uint8))
    sample = only(read(tmp_path / "a", labels="loveda"))
    twice = replace(sample, annotations=(*sample.annotations, replace(sample.annotations[0], label="other", attributes={})))
    boxed = replace(sample, annotations=(Region(label="x", shape=Box(x0=0, y0=0, x1=3, y1=3)),))
    found = {problem.found for problem in LabelMasks().write([sample, twice, boxed, replace(sample, pictures=())], tmp_path / "b")}
    assert found == {
        "regions that overlap: 1 sample not written",
        "regions that are no named masks: 1 sample written without",
        "a sample with no or several pictures: 1 sample not written",
        "a second sample on a picture named a: 1 sample not written",
    }


def reason(root: Path) -> str:
    known = LabelMasks().recognise(root)
    assert known is not None
    return known[1].partition("; ")[2]


def of_colours(*colours: tuple[int, int, int]) -> np.ndarray:
    return np.array(colours, np.uint8).repeat(4, 0).reshape(1, -1, 3).repeat(12, 0)


WHITE, BLUE, CYAN, GREEN, RED, YELLOW = (255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 0, 0), (255, 255, 0)


def test_colours_that_one_palette_has_tell_it(tmp_path: Path) -> None:
    put_pair(tmp_path, of_colours(WHITE, BLUE, CYAN))
    assert reason(tmp_path) == "palette potsdam: values (0,0,255) (0,255,255) (255,255,255), and no other palette has all of them"
    assert areas(only(read(tmp_path))) == {"impervious surface": 48, "building": 48, "low vegetation": 48}


def test_colours_of_two_palettes_are_refused_naming_both(tmp_path: Path) -> None:
    # Blue is water in one and building in the other.
    put_pair(tmp_path, of_colours(WHITE, BLUE, GREEN))
    with pytest.raises(Refused, match=r"data/labels-missing (.|\n)*which may be of loveda or of potsdam\n +allowed"):
        read(tmp_path)
    assert reason(tmp_path).endswith("which may be of loveda or of potsdam")
    put_pair(tmp_path / "Potsdam", of_colours(WHITE, BLUE, GREEN))
    assert areas(only(read(tmp_path / "Potsdam"))) == {"impervious surface": 48, "building": 48, "tree": 48}


def test_a_name_against_the_values_is_refused_naming_both(tmp_path: Path) -> None:
    put_pair(tmp_path / "loveda", of_colours((0, 0, 63), (0, 127, 255)))
    with pytest.raises(Refused, match="which may be of loveda or of isaid"):
        read(tmp_path / "loveda")


def test_a_name_whose_values_do_not_fit_is_an_error_of_each_mask(tmp_path: Path) -> None:
    put_pair(tmp_path / "loveda", np.full((10, 10), 77, np.uint8))
    (problem,) = read(tmp_path / "loveda")
    assert isinstance(problem, Problem) and problem.code == "data/unknown-labels" and "100.0% of 100 px" in problem.found


@pytest.mark.parametrize("values", [(1, 2, 3), (9, 11, 13), (1, 3, 5)])
def test_small_numbers_tell_no_palette(tmp_path: Path, values: tuple[int, ...]) -> None:
    put_pair(tmp_path, np.array([values], np.uint8).repeat(10, 0).repeat(5, 1))
    with pytest.raises(Refused, match=r"data/labels-missing (.|\n)*which fit .*isaid.* and no name that says which is meant"):
        read(tmp_path)


def test_layouts_that_belong_to_one_set(tmp_path: Path) -> None:
    ids = np.array([[1, 2, 3]], np.uint8).repeat(12, 0).repeat(4, 1)
    put_pair(tmp_path / "x" / "Val" / "Rural", ids, "images_png", "masks_png")
    assert reason(tmp_path / "x") == "palette loveda: values 1 2 3, and the name 'masks_png'"
    put_pair(tmp_path / "OpenEarthMap" / "aachen", ids, "images", "labels", "aachen_1")
    assert [region.label for region in only(read(tmp_path / "OpenEarthMap")).annotations] == ["bareland", "rangeland", "developed"]
    put(tmp_path / "y" / "train" / "images" / "P1.png", np.zeros((12, 12, 3), np.uint8))
    put(tmp_path / "y" / "train" / "Semantic_masks" / "images" / "P1_instance_color_RGB.png", of_colours((0, 0, 63), (0, 0, 0), (0, 127, 255)))
    put(tmp_path / "y" / "train" / "Instance_masks" / "images" / "P1_instance_id_RGB.png", of_colours((1, 0, 0), (0, 0, 0), (2, 0, 0)))
    sample = only(read(tmp_path / "y"))
    assert areas(sample) == {"background": 48, "ship": 48, "plane": 48} and sample.attributes == {"split": "train"}
    assert [region.label for region in sample.annotations if "instance" in region.attributes] == ["ship", "plane"]
    put(tmp_path / "z" / "2_Ortho_RGB" / "top_potsdam_2_10_RGB.tif", np.zeros((12, 12, 3), np.uint8))
    put(tmp_path / "z" / "5_Labels_all" / "top_potsdam_2_10_label.tif", of_colours(BLUE, RED, YELLOW))
    assert areas(only(read(tmp_path / "z"))) == {"building": 48, "clutter": 48, "car": 48}


def test_fixture_of_unknown_colours(tmp_path: Path) -> None:
    values = np.array([[(0, 0, 63), (0, 0, 0)], [(0, 0, 64), (14, 0, 0)]], np.uint8).repeat(8, 0).repeat(8, 1)
    put_pair(tmp_path / "isaid", values)
    (problem,) = read(tmp_path / "isaid")
    assert isinstance(problem, Problem) and problem.severity == "refuse" and problem.found == "50.0% of 256 px hold a value outside the palette"


def test_masks_that_cannot_be_decoded(tmp_path: Path) -> None:
    put_pair(tmp_path, np.ones((10, 10), np.uint8))
    (tmp_path / "masks" / "a.png").write_bytes(b"no picture")
    known = LabelMasks().recognise(tmp_path)
    assert known is not None and known[0] == 0.5 and "10 bytes that begin with" in known[1]
    with pytest.raises(Refused, match="samples/not-a-picture"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "palette"),
    [("loveda", "loveda"), ("isprs", "potsdam"), ("dronedeploy", "dronedeploy"), ("epfl_roads", "epfl_roads")],
)
def test_published_sets_are_recognised_without_being_told(shared_data: Path, name: str, palette: str) -> None:
    assert reason(shared_data / name).startswith(f"palette {palette}: values ")
    masks = LabelMasks().annotated(shared_data / name)
    facts = json.loads((shared_data / "counts.json").read_text(encoding="utf-8"))[name]
    assert len(masks) == facts["pairs"]
    first = next(iter(LabelMasks().read(shared_data / name)))
    assert first == next(iter(LabelMasks(labels=palette).read(shared_data / name)))


def test_loveda_as_published(shared_data: Path) -> None:
    facts = json.loads((shared_data / "counts.json").read_text(encoding="utf-8"))["loveda"]
    found = {sample.id: sample for sample in read(shared_data / "loveda", labels="loveda") if isinstance(sample, Sample)}
    assert len(found) == facts["images"]
    for name, counts in facts["pixels_by_value_per_mask"].items():
        assert areas(found[name]) == {facts["label_values"][value]: count for value, count in counts.items()}


def test_isprs_dronedeploy_and_roads_as_published(shared_data: Path) -> None:
    facts = json.loads((shared_data / "counts.json").read_text(encoding="utf-8"))
    patch = only(read(shared_data / "isprs", labels="isprs"))
    values = facts["isprs"]["pixels_by_value"]
    assert areas(patch) == {facts["isprs"]["label_values"][value]: values[value] for value in "12345"}
    chips = [sample for sample in read(shared_data / "dronedeploy", labels="dronedeploy") if isinstance(sample, Sample)]
    assert len(chips) == facts["dronedeploy"]["pairs"]
    present = [label.upper() for sample in chips for label in areas(sample) if label]
    assert {name: present.count(name) for name in facts["dronedeploy"]["chips_with_any_px"]} == facts["dronedeploy"]["chips_with_any_px"]
    roads = [sample for sample in read(shared_data / "epfl_roads", labels="epfl_roads") if isinstance(sample, Sample)]
    assert sum(areas(sample)["road"] for sample in roads) == facts["epfl_roads"]["pixels_over_127"]
