"""COCO: masks by the published numbers, files joined on their pictures, what is refused, and that what was written is read back."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sightline.data.readers.caption_reader import caption_turns
from sightline.data.readers.coco import Coco
from sightline.data.readers.coco_masks import compress_runs, expand_runs, fill, read_outline, read_runs, write_runs
from sightline.data.readers.coco_panoptic import CocoPanoptic
from sightline.data.readers.coco_writing import mask_bounds
from sightline.errors import Problem, Refused
from sightline.samples.geometry import decode_mask, encode_mask, mask_area
from sightline.samples.pictures import describe
from sightline.samples.sample import Box, Mask, Origin, Picture, Point, Polygon, Region, Sample, Text, Turn

GOLDEN = encode_mask(np.array([[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0]], np.bool_))


def png(width: int = 12, height: int = 10, shade: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (shade, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


PICTURE = describe(png(), "1.png", "here")


def put(root: Path, annotations: list[Any], task: str = "instances_val2017", **more: Any) -> None:
    (root / "annotations").mkdir(exist_ok=True, parents=True)
    (root / "val2017").mkdir(exist_ok=True)
    (root / "val2017" / "1.png").write_bytes(png())
    images = [{"id": 7, "file_name": "1.png", "width": 12, "height": 10}]
    value = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "ship"}, {"id": 90, "name": "sea"}], **more}
    (root / "annotations" / f"{task}.json").write_text(json.dumps(value), encoding="utf-8")


def instance(**more: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0, "segmentation": [[1, 2, 4, 2, 4, 6, 1, 6]], **more}


def test_runs_as_published() -> None:
    assert GOLDEN.runs == (3, 2, 1, 3, 3)
    assert compress_runs(GOLDEN.runs) == "32112" and expand_runs("32112") == [3, 2, 1, 3, 3]
    assert write_runs(GOLDEN) == {"size": [3, 4], "counts": "32112"}
    assert mask_area(GOLDEN) == 5 and mask_bounds(GOLDEN) == (1, 0, 3, 3)
    assert read_runs({"size": [3, 4], "counts": [3, 2, 1, 3, 3]}, 4, 3) == GOLDEN


@given(st.lists(st.integers(0, 1 << 30), max_size=8))
@settings(deadline=None)
def test_runs_survive_their_string(runs: list[int]) -> None:
    assert expand_runs(compress_runs(runs)) == runs


@given(st.binary(min_size=1, max_size=40), st.integers(1, 9))
@settings(deadline=None)
def test_masks_survive_their_object(bits: bytes, height: int) -> None:
    pixels = np.resize(np.frombuffer(bits, np.uint8) % 2 == 1, (height, len(bits)))
    mask = encode_mask(pixels)
    assert read_runs(write_runs(mask), mask.width, mask.height) == mask


@given(st.text(st.characters(min_codepoint=32, max_codepoint=130), max_size=12))
@settings(deadline=None)
def test_any_string_is_runs_or_refused(text: str) -> None:
    try:
        mask = read_runs({"size": [3, 4], "counts": text}, 4, 3)
    except ValueError:
        return
    assert decode_mask(mask).shape == (3, 4)


def test_empty_runs_join_their_neighbours() -> None:
    assert read_runs({"size": [1, 6], "counts": [0, 2, 0, 1, 3]}, 6, 1).runs == (0, 3, 3)
    assert read_runs({"size": [1, 6], "counts": [2, 0, 1, 3, 0]}, 6, 1).runs == (3, 3)


@pytest.mark.parametrize(
    ("outline", "size", "string"),
    [
        ([1, 1, 5, 1, 5, 4, 1, 4], (8, 6), "73300000a0"),
        ([0.5, 0.5, 6.2, 1.1, 3.3, 5.7], (8, 6), "7152N2NN2N="),
        ([-4, -4, 20, -4, 20, 20, -4, 20], (3, 2), "06"),
    ],
)
def test_outlines_fill_the_pixels_that_the_published_tools_fill(outline: list[float], size: tuple[int, int], string: str) -> None:
    mask = fill([read_outline(outline)], *size)
    assert sum(mask.runs) == size[0] * size[1]
    assert compress_runs(mask.runs) == string


def test_several_outlines_are_one_mask_of_all_of_them() -> None:
    left, right = [0, 0, 2, 0, 2, 4, 0, 4], [6, 0, 8, 0, 8, 4, 6, 4]
    both = decode_mask(fill([read_outline(left), read_outline(right)], 8, 4))
    assert both.sum() == 16 and both[:, 3:5].sum() == 0
    assert np.array_equal(both, decode_mask(fill([read_outline(left)], 8, 4)) | decode_mask(fill([read_outline(right)], 8, 4)))


def test_files_of_one_split_are_joined_on_their_pictures(tmp_path: Path) -> None:
    put(
        tmp_path,
        [instance(), instance(id=2, category_id=90, iscrowd=1, segmentation={"size": [10, 12], "counts": [5, 3, 112]}), instance(id=3, segmentation=[])],
    )
    put(tmp_path, [{"id": 1, "image_id": 7, "caption": " A ship.\n"}, {"id": 2, "image_id": 7, "caption": "A boat."}], "captions_val2017")
    put(tmp_path, [instance(keypoints=[1, 2, 2], num_keypoints=1)], "person_keypoints_val2017")
    assert Coco().recognise(tmp_path) == (0.9, "captions_val2017.json has images with file names, and annotations")
    assert {file.name for file in Coco().annotated(tmp_path)} == {f"{task}_val2017.json" for task in ("captions", "instances", "person_keypoints")}
    (sample,) = Coco().read(tmp_path)
    assert isinstance(sample, Sample) and (sample.id, sample.origin.row) == ("val2017/1.png", "7")
    assert sample.text(1) == "A ship." and sample.turns[1].alternatives == ((Text(text="A boat."),),)
    assert sample.attributes == {"split": "val", "references": [" A ship.\n", "A boat."]}
    outline, crowd, box = sample.annotations
    assert outline.shape == Polygon(points=((1, 2), (4, 2), (4, 6), (1, 6))) and outline.label == "ship"
    assert outline.attributes == {"crowd": False, "instance": 1, "area": 12, "bbox": [1, 2, 3, 4], "keypoints": [1, 2, 2], "num_keypoints": 1}
    assert crowd.shape == Mask(width=12, height=10, runs=(5, 3, 112)) and crowd.attributes["crowd"] is True and crowd.label == "sea"
    assert box.shape == Box(x0=1, y0=2, x1=4, y1=6)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (instance(segmentation=[[1, 2, 3]]), r"data/bad-annotation .*image 7 annotation 1\n +found: +outline \[1, 2, 3\], which is no list of three corners"),
        (instance(segmentation=[[1, 2, 3, 4, 5, float("1e999")]]), r"data/not-json"),
        (instance(segmentation={"size": [9, 12], "counts": "1"}), r"found: +a mask of size \[9, 12\] on a picture of height 10 and width 12"),
        (instance(segmentation={"size": [10, 12], "counts": [1, 2]}), r"found: +runs of sum 3 for 120 px"),
        (instance(segmentation={"size": [10, 12], "counts": "ooooooooooo"}), r"found: +'o' after 0 runs is no part of a run"),
        (instance(segmentation=[], bbox=[1, 2, 0, 4]), r"found: +bbox \[1, 2, 0, 4\], which is no box"),
        (instance(keypoints="nose"), r"found: +keypoints nose"),
        (instance(image_id=8), r"data/unknown-picture .*annotations row 0\n +found: +image_id 8"),
        (instance(category_id=4), r"data/unknown-category .*\n +found: +category_id 4"),
        ({"image_id": 7, "caption": " "}, r"data/empty-caption"),
    ],
)
def test_annotations_that_are_refused(tmp_path: Path, annotation: dict[str, Any], message: str) -> None:
    put(tmp_path, [annotation])
    with pytest.raises(Refused, match=message):
        raise Refused([problem for problem in Coco().read(tmp_path) if isinstance(problem, Problem)])


def test_every_bad_annotation_of_a_picture_is_named(tmp_path: Path) -> None:
    put(tmp_path, [instance(id=1, segmentation=[[1]]), instance(id=2), instance(id=3, segmentation=5)])
    found = list(Coco().read(tmp_path))
    assert [problem.place.rsplit(" ")[-1] for problem in found if isinstance(problem, Problem)] == ["1", "3"] and len(found) == 2


def test_a_copy_of_another_size_is_refused(tmp_path: Path) -> None:
    put(tmp_path, [instance()])
    (tmp_path / "val2017" / "1.png").write_bytes(png(10, 12))
    (problem,) = Coco().read(tmp_path)
    assert isinstance(problem, Problem) and problem.code == "data/size-mismatch" and problem.found == "10x12 px upright, annotated as 12x10"


def test_ids_that_mean_two_things_are_refused(tmp_path: Path) -> None:
    put(tmp_path, [instance()])
    (tmp_path / "val2017" / "2.png").write_bytes(png(shade=1))
    put(tmp_path, [], "captions_val2017", categories=[{"id": 3, "name": "boat"}], images=[{"id": 7, "file_name": "2.png"}])
    codes = Counter(problem.code for problem in Coco().read(tmp_path) if isinstance(problem, Problem))
    assert codes["data/id-conflict"] == 2


def test_a_folder_per_split_with_its_pictures(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "1.png").write_bytes(png())
        value = {"images": [{"id": 7, "file_name": "1.png"}], "annotations": [instance()], "categories": [{"id": 3, "name": "ship"}]}
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(value))
    found = [(sample.id, sample.attributes) for sample in Coco().read(tmp_path) if isinstance(sample, Sample)]
    assert found == [("train/1.png", {"split": "train"}), ("valid/1.png", {"split": "val"})]


def test_annotations_of_one_id_are_one_annotation_or_refused(tmp_path: Path) -> None:
    put(tmp_path, [instance(), instance(area=5)])
    put(tmp_path, [instance(bbox=[0, 0, 1, 1])], "person_keypoints_val2017")
    found = [problem.found for problem in Coco().rows(tmp_path) if isinstance(problem, Problem)]
    assert found == ["annotation 1 a second time", "annotation 1 with another bbox than before"]


def test_coco_mini_as_published(shared_data: Path) -> None:
    facts = json.loads((shared_data / "counts.json").read_text(encoding="utf-8"))["coco_mini"]
    found = list(Coco().read(shared_data / "coco_mini"))
    samples = [sample for sample in found if isinstance(sample, Sample)]
    assert len(samples) == len(found) == facts["images"]
    for tag, split in (("train2017", "train"), ("val2017", "val")):
        fact = facts["splits"][tag]
        part = [sample for sample in samples if sample.attributes["split"] == split]
        references = [text for sample in part for text in sample.attributes["references"]]
        regions = [region for sample in part for region in sample.annotations]
        assert (len(part), len(references), len(regions)) == (fact["images"], fact["captions"], fact["instances"])
        assert sum(text != text.strip() for text in references) == fact["captions_with_leading_or_trailing_space_or_newline"]
        assert not any(text != text.strip() for sample in part for text in [sample.text(1)])
        assert sum(region.attributes["crowd"] for region in regions) == fact["instances_iscrowd_1"]
        assert sum(region.attributes["area"] < 32 * 32 for region in regions) == fact["instances_area_under_32x32"]
        people = [region.attributes for region in regions if "keypoints" in region.attributes]
        assert len(people) == fact["person_annotations_in_keypoints_file"]
        assert sum(person["num_keypoints"] for person in people) == fact["keypoints_labelled_total"]
    labels = Counter(region.label for sample in samples for region in sample.annotations)
    assert labels == facts["instances_by_category"]
    # Published areas are those of the outlines: whole pixels differ by their edges.
    for region in (region for sample in samples for region in sample.annotations if isinstance(region.shape, Mask) and not region.attributes["crowd"]):
        assert isinstance(region.shape, Mask)
        assert mask_area(region.shape) == pytest.approx(region.attributes["area"], rel=0.03)


def test_coco_mini_survives_writing(shared_data: Path, tmp_path: Path) -> None:
    samples = [replace(sample, origin=Origin(source="")) for sample in Coco().read(shared_data / "coco_mini") if isinstance(sample, Sample)]
    assert Coco().write(samples, tmp_path) == []
    assert [replace(sample, origin=Origin(source="")) for sample in Coco().read(tmp_path) if isinstance(sample, Sample)] == samples


@st.composite
def shapes(draw: st.DrawFn) -> Region:
    kind = draw(st.sampled_from(["box", "outline", "mask"]))
    numbers = st.integers(0, 40).map(lambda number: number / 4)
    if kind == "box":
        x, y = draw(numbers), draw(numbers)
        shape: Any = Box(x0=x, y0=y, x1=x + draw(numbers) + 1, y1=y + 1)
    elif kind == "outline":
        shape = Polygon(points=tuple(draw(st.lists(st.tuples(numbers, numbers), min_size=3, max_size=6))))
    else:
        shape = encode_mask(np.array(draw(st.lists(st.booleans(), min_size=120, max_size=120)), np.bool_).reshape(10, 12))
    return Region(label=draw(st.sampled_from(["ship", "Boot", "\u8239"])), attributes={"crowd": draw(st.booleans())}, shape=shape)


@given(st.lists(shapes(), max_size=4), st.lists(st.sampled_from(["a", "b", " a", "\u6e2f\u53e3"]), max_size=3))
@settings(max_examples=30, deadline=None)
def test_regions_and_captions_survive_writing(regions: list[Region], references: list[str]) -> None:
    attributes = {"split": "test", **({"references": references} if references else {})}
    sample = Sample(
        id="test2014/1.png", pictures=(PICTURE,), turns=caption_turns(references), annotations=tuple(regions), attributes=attributes, origin=Origin(source="s")
    )
    with TemporaryDirectory() as folder:
        assert Coco().write([sample], Path(folder)) == []
        (again,) = Coco().read(Path(folder))
    assert isinstance(again, Sample)
    assert (again.id, again.turns, again.attributes, again.pictures) == (sample.id, sample.turns, sample.attributes, sample.pictures)
    assert [(region.label, region.shape, region.attributes["crowd"]) for region in again.annotations] == [
        (region.label, region.shape, region.attributes["crowd"]) for region in regions
    ]


def test_what_coco_cannot_hold_is_named(tmp_path: Path) -> None:
    point = Region(label="a", shape=Point(x=1, y=1))
    talk = tuple(Turn(role="user" if k % 2 == 0 else "assistant", items=(Text(text="x"),)) for k in range(4))
    plain = Sample(id="1", pictures=(PICTURE,), annotations=(point,), attributes={"kind": "count"}, origin=Origin(source="s", licence="CC0"))
    problems = Coco().write([plain, replace(plain, turns=talk)], tmp_path)
    assert {problem.found: problem.severity for problem in problems} == {
        "origin: 1 sample written without": "warn",
        "attributes: 1 sample written without": "warn",
        "ids: 1 sample written without": "warn",
        "regions that are no outline, mask or box, or have no label: 1 sample written without": "warn",
        "more than captions of one picture: 1 sample not written": "refuse",
    }


def put_panoptic(root: Path, ids: np.ndarray, segments: list[dict[str, Any]]) -> None:
    put(root, [{"image_id": 7, "file_name": "1.png", "segments_info": segments}], "panoptic_val2017")
    (root / "annotations" / "panoptic_val2017").mkdir()
    colours = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
    Image.fromarray(colours).save(root / "annotations" / "panoptic_val2017" / "1.png")


def test_segments_are_colours(tmp_path: Path) -> None:
    ids = np.zeros((10, 12), np.int64)
    ids[2:5, 3:7] = 209634  # red 226, green 50, blue 3
    put_panoptic(tmp_path, ids, [{"id": 209634, "category_id": 90, "area": 12, "bbox": [3, 2, 4, 3], "iscrowd": 0}])
    assert CocoPanoptic().recognise(tmp_path) == (0.9, "panoptic_val2017.json has segments_info") and Coco().recognise(tmp_path) is None
    (sample,) = CocoPanoptic().read(tmp_path)
    assert isinstance(sample, Sample) and (sample.id, sample.attributes, sample.turns) == ("val2017/1.png", {"split": "val"}, ())
    (region,) = sample.annotations
    assert region.label == "sea" and isinstance(region.shape, Mask) and np.array_equal(decode_mask(region.shape), ids > 0)
    assert region.attributes == {"instance": 209634, "thing": True, "crowd": False, "area": 12, "bbox": [3, 2, 4, 3]}


def test_segments_and_colours_must_agree(tmp_path: Path) -> None:
    ids = np.zeros((10, 12), np.int64)
    ids[0, 0] = 5
    put_panoptic(tmp_path, ids, [{"id": 6, "category_id": 90}])
    texts = [str(problem) for problem in CocoPanoptic().read(tmp_path)]
    assert [text.splitlines()[1] for text in texts] == ["  found:   segment {'id': 6, 'category_id': 90}", "  found:   colour 5 of 1 px"]


@given(st.lists(st.integers(0, 3), min_size=120, max_size=120))
@settings(max_examples=20, deadline=None)
def test_segments_survive_writing(numbers: list[int]) -> None:
    ids = np.array(numbers).reshape(10, 12)
    regions = tuple(
        Region(label=f"class {k}", attributes={"instance": k, "thing": k > 1, "crowd": k == 2, "area": 5, "bbox": [0, 0, 1, 1]}, shape=encode_mask(ids == k))
        for k in range(1, 4)
        if (ids == k).any()
    )
    sample = Sample(id="val/1.png", pictures=(PICTURE,), annotations=regions, attributes={"split": "val"}, origin=Origin(source="s"))
    with TemporaryDirectory() as folder:
        assert CocoPanoptic().write([sample], Path(folder)) == []
        (again,) = CocoPanoptic().read(Path(folder))
    assert isinstance(again, Sample)
    assert (again.id, again.annotations, again.attributes, again.pictures) == (sample.id, sample.annotations, sample.attributes, sample.pictures)


def test_overlapping_masks_are_no_panoptic_picture(tmp_path: Path) -> None:
    region = Region(label="a", shape=encode_mask(np.ones((10, 12), np.bool_)))
    picture: Picture = PICTURE
    (problem,) = CocoPanoptic().write([Sample(id="1", pictures=(picture,), annotations=(region, region), origin=Origin(source="s"))], tmp_path)
    assert problem.found == "masks that overlap: 1 sample not written"
