"""Boxes in XML: the three forms of a box, angles in radians, regions that are no objects, and hostile files."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sightline.data.readers.voc_xml import VocXml
from sightline.data.readers.xml_tree import parse_xml
from sightline.errors import Problem, Refused
from sightline.samples.geometry import canonical, corners, min_area_rect, rotated_iou
from sightline.samples.pictures import describe
from sightline.samples.sample import Box, Origin, Picture, Region, RotatedBox, Sample

UPRIGHT = "<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>10</xmax><ymax>9</ymax></bndbox>"


def thing(body: str, name: str = "ship", flags: str = "") -> str:
    return f"<object><name>{name}</name>{flags}{body}</object>"


def put(root: Path, *objects: str, stem: str = "a", folder: str = "Annotations", head: str = "", size: str = "") -> None:
    for place in (root / "JPEGImages", root / folder):
        place.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(root / "JPEGImages" / f"{stem}.png")
    (root / folder / f"{stem}.xml").write_text(f"{head}<annotation>{size}{''.join(objects)}</annotation>", encoding="utf-8")


def one(root: Path, reader: VocXml | None = None) -> Sample:
    (sample,) = (reader or VocXml()).read(root)
    assert isinstance(sample, Sample), str(sample)
    return sample


def test_upright_boxes_and_the_number_of_the_first_pixel(tmp_path: Path) -> None:
    put(tmp_path, thing(UPRIGHT, flags="<truncated>1</truncated>"))
    (region,) = one(tmp_path).annotations
    assert region == Region(label="ship", attributes={"truncated": 1, "difficult": 0}, shape=Box(x0=3, y0=4, x1=10, y1=9))
    assert one(tmp_path, VocXml(first_pixel=1)).annotations[0].shape == Box(x0=2, y0=3, x1=10, y1=9)


def test_angles_are_radians_and_turn_clockwise(tmp_path: Path) -> None:
    centred = "<robndbox><cx>20</cx><cy>15</cy><w>8</w><h>4</h><angle>{}</angle></robndbox>"
    put(tmp_path, thing(centred.format(math.pi / 6)), thing(centred.replace("<w>8</w><h>4</h>", "<w>4</w><h>8</h>").format(0.0)))
    tilted, upright = (region.shape for region in one(tmp_path).annotations)
    assert isinstance(tilted, RotatedBox) and tilted.theta == pytest.approx(30)
    # Clockwise on screen: the right end of the long side lies below the centre.
    assert corners(tilted)[1:3].mean(0) == pytest.approx((20 + 4 * math.cos(math.pi / 6), 15 + 2))
    assert upright == RotatedBox(cx=20, cy=15, w=8, h=4, theta=-90)


def test_what_is_no_object_has_no_label(tmp_path: Path) -> None:
    put(tmp_path, thing(UPRIGHT, "DontCare"), thing(UPRIGHT))
    crowd, ship = one(tmp_path).annotations
    assert (crowd.label, crowd.attributes["ignore"], crowd.attributes["class"]) == (None, True, "DontCare")
    assert ship.label == "ship" and "ignore" not in ship.attributes


def test_splits_from_the_lists(tmp_path: Path) -> None:
    for stem in ("a", "b", "c"):
        put(tmp_path, stem=stem)
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for name, stems in {"train": "a\nc", "trainval": "a\nb\nc", "val": "b\nc", "ship_train": "a 1"}.items():
        (lists / f"{name}.txt").write_text(stems)
    first, second, third = VocXml().read(tmp_path)
    assert isinstance(first, Sample) and first.attributes == {"split": "train"} and isinstance(second, Sample) and second.attributes == {"split": "val"}
    assert isinstance(third, Problem) and third.code == "data/split-conflict" and third.found == "listed in train and val"


def test_every_bad_object_is_named(tmp_path: Path) -> None:
    broken = [
        thing(UPRIGHT.replace("<ymax>9", "<ymax>nan")),
        thing(UPRIGHT.replace("<xmax>10", "<xmax>3")),
        thing(UPRIGHT.replace("<xmax>10", "<xmax>1e300")),
        thing(""),
        thing(UPRIGHT, name=" "),
        thing(UPRIGHT, flags="<difficult>maybe</difficult>"),
        thing("<robndbox><cx>1</cx><cy>1</cy><w>0</w><h>2</h><angle>0</angle></robndbox>"),
    ]
    put(tmp_path, thing(UPRIGHT), *broken, size="<size><width>41</width><height>30</height></size>")
    found = list(VocXml().read(tmp_path))
    codes = [problem.code.removeprefix("data/") for problem in found if isinstance(problem, Problem)]
    assert codes == ["box-numbers", "degenerate-box", "box-numbers", "box-missing", "label-missing", "object-flag", "degenerate-box", "picture-size"]
    assert str(found[0]).startswith("data/box-numbers") and "ymax 'nan'" in str(found[0]) and "a.xml:object 2" in str(found[0])
    assert "41x30 px in `size`" in str(found[-1])


def test_files_without_their_partner(tmp_path: Path) -> None:
    put(tmp_path, stem="a")
    put(tmp_path, stem="b")
    (tmp_path / "Annotations" / "a.xml").rename(tmp_path / "Annotations" / "z.xml")
    found = [problem.code for problem in VocXml().read(tmp_path) if isinstance(problem, Problem)]
    assert found == ["data/missing-picture", "data/missing-labels"]


def test_of_several_folders_the_oriented_one_or_the_named_one(tmp_path: Path) -> None:
    put(tmp_path, thing(UPRIGHT, "flat"), folder="Annotations/Horizontal Bounding Boxes")
    put(tmp_path, thing(UPRIGHT, "turned"), folder="Annotations/Oriented Bounding Boxes")
    assert one(tmp_path).annotations[0].label == "turned"
    assert one(tmp_path, VocXml(annotations="Horizontal Bounding Boxes")).annotations[0].label == "flat"
    assert VocXml().annotated(tmp_path) == {tmp_path / "Annotations" / "Oriented Bounding Boxes" / "a.xml"}
    (tmp_path / "Annotations" / "Oriented Bounding Boxes").rename(tmp_path / "Annotations" / "Other")
    assert VocXml().recognise(tmp_path) is not None
    with pytest.raises(Refused, match=r"data/several-annotations (.|\n)*Horizontal Bounding Boxes, Other(.|\n)*annotations: FOLDER"):
        list(VocXml().read(tmp_path))


def test_files_beside_their_pictures(tmp_path: Path) -> None:
    put(tmp_path, thing(UPRIGHT), folder="JPEGImages")
    assert one(tmp_path).annotations[0].label == "ship"


def test_pictures_in_a_named_folder(tmp_path: Path) -> None:
    put(tmp_path / "set", thing(UPRIGHT))
    (tmp_path / "set" / "JPEGImages").rename(tmp_path / "elsewhere")
    assert one(tmp_path / "set", VocXml(pictures=str(tmp_path / "elsewhere"))).id == "a.png"
    with pytest.raises(Refused, match=r"data/no-picture-folder (.|\n)*correct `pictures`"):
        list(VocXml(pictures="none").read(tmp_path / "set"))


BOMB = '<!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize("head", [BOMB, OUTSIDE, '<!DOCTYPE a SYSTEM "http://example.invalid/a.dtd">'])
def test_document_types_are_refused(tmp_path: Path, head: str) -> None:
    put(tmp_path, thing(UPRIGHT, "&b;"), head=head)
    (problem,) = VocXml().read(tmp_path)
    assert isinstance(problem, Problem) and problem.code == "data/hostile-xml" and "which can define entities" in problem.found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"<a>" * 100_000, "nested more than 64 deep"),
        (b"<a><b></a>", r"not-xml at place:1(.|\n)*mismatched tag"),
        (b"", "no element found"),
        (b'<?xml version="1.0" encoding="gb2312"?><a/>', "not-xml"),
        (b'<?xml version="1.0" encoding="nonsense"?><a/>', "not-xml"),
        (b"<a>\xff</a>", "not well-formed"),
        (b"<a>&undefined;</a>", "undefined entity"),
    ],
)
def test_broken_xml_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(Refused, match=message):
        parse_xml(text, "place")


@pytest.fixture(scope="module")
def picture() -> Picture:
    import io

    stream = io.BytesIO()
    Image.new("RGB", (40, 30)).save(stream, "PNG")
    return describe(stream.getvalue(), "p.png", "p")


def boxes() -> st.SearchStrategy[Box]:
    number = st.floats(0, 900)
    return st.builds(lambda x, y, w, h: Box(x0=x, y0=y, x1=x + w, y1=y + h), number, number, st.floats(1, 90), st.floats(1, 90))


TURNED = st.builds(canonical, st.floats(0, 900), st.floats(0, 900), st.floats(3, 80), st.floats(3, 80), st.floats(-90, 89))
LABELS = st.text(st.characters(categories=("L", "N"), include_characters="-_ <&>\"'\u6c34"), min_size=1, max_size=12).filter(lambda text: text == text.strip())


@given(st.lists(st.tuples(LABELS, boxes() | TURNED, st.booleans(), st.booleans()), max_size=5))
@settings(deadline=None, max_examples=40)
def test_what_is_written_comes_back(tmp_path_factory: pytest.TempPathFactory, picture: Picture, things: list[tuple[str, Box | RotatedBox, bool, bool]]) -> None:
    regions = []
    for label, shape, truncated, crowd in things:
        attributes = {"truncated": int(truncated), "difficult": 0}
        regions.append(
            Region(label=None, attributes={**attributes, "ignore": True, "class": "DontCare"}, shape=shape)
            if crowd
            else Region(label=label, attributes=attributes, shape=shape)
        )
    sample = Sample(
        id="JPEGImages/p.png",
        pictures=(picture,),
        annotations=tuple(regions),
        attributes={"split": "val", "channels": 1},
        origin=Origin(source="s", row="JPEGImages/p.png"),
    )
    root = tmp_path_factory.mktemp("voc")
    assert VocXml().write([sample], root) == []
    back = one(root, VocXml(source="s"))
    assert replace(back, annotations=()) == replace(sample, annotations=())
    for region, other in zip(sample.annotations, back.annotations, strict=True):
        assert replace(region, shape=None) == replace(other, shape=None)
        if isinstance(region.shape, RotatedBox) and isinstance(other.shape, RotatedBox):
            assert rotated_iou(region.shape, other.shape) == pytest.approx(1, abs=1e-9)
        else:
            assert region.shape == other.shape


def test_corners_as_published_come_back(tmp_path: Path, picture: Picture) -> None:
    quad = [1.0, 2.0, 11.0, 3.0, 10.0, 9.0, 0.0, 8.0]
    region = Region(label="a", attributes={"truncated": 0, "difficult": 0, "quad": quad}, shape=min_area_rect(np.array(quad).reshape(4, 2)))
    point = Region(label="p", shape=None)
    sample = Sample(id="x", pictures=(picture,), annotations=(region, point), origin=Origin(source="s"))
    (loss,) = VocXml().write([sample], tmp_path)
    assert loss.found == "regions that are no named boxes: 1 sample written without"
    assert one(tmp_path).annotations == (region,)


def test_dior_r_as_published(shared_data: Path) -> None:
    facts = json.loads((shared_data / "counts.json").read_text(encoding="utf-8"))["dior_r"]
    root = shared_data / "dior_r"
    known = VocXml().recognise(root)
    assert known is not None and "rotated boxes" in known[1]
    sample = one(root)
    (region,) = sample.annotations
    assert Counter([region.label]) == facts["objects_by_class"] and sample.attributes == {"split": "train"}
    assert [region.attributes["quad"]] == facts["corners_x_y"]
    assert region.shape == RotatedBox(cx=408.5, cy=454.5, w=551, h=435, theta=0)


def test_hit_uav_as_published(shared_data: Path) -> None:
    facts = json.loads((shared_data / "counts.json").read_text(encoding="utf-8"))["hit_uav"]
    root = shared_data / "hit_uav"
    assert VocXml().recognise(root) is not None and len(VocXml().annotated(root)) == facts["images"]
    samples = [sample for sample in VocXml().read(root) if isinstance(sample, Sample)]
    regions = [region for sample in samples for region in sample.annotations]
    assert (len(samples), len(regions)) == (facts["images"], facts["objects"])
    assert Counter(region.label or region.attributes["class"] for region in regions) == facts["objects_by_class"]
    objects = [region for region in regions if not region.attributes.get("ignore")]
    assert len(objects) == facts["objects_without_DontCare"] and "DontCare" not in {region.label for region in objects}
    assert sum(region.attributes["truncated"] for region in regions) == facts["truncated_1"]
    assert sum(region.attributes["difficult"] for region in regions) == facts["difficult_1"]
    assert {sample.attributes["split"] for sample in samples} == {"train"} and {sample.attributes["channels"] for sample in samples} == {1}
    straight = [region.shape.theta in (0.0, -90.0) for region in regions if isinstance(region.shape, RotatedBox)]
    assert sum(straight) == facts["angle_zero"]
    outside = [region for region in regions if isinstance(region.shape, RotatedBox) and (np.abs(corners(region.shape) - (320, 256)) - (320, 256)).max() > 1]
    assert len(outside) == facts["boxes_with_a_corner_more_than_1px_outside"]
