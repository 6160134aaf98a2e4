"""The operator `segment`: objects of class masks one by one, single objects by their quadrant, what is not there, and what is not clear."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from sightline.data.readers.label_masks import LabelMasks
from sightline.data.reading import read_sets, sets_of
from sightline.data.scenes import Scenes, make
from sightline.data.segment_questions import ABSENT, THERE, Segment
from sightline.errors import Refused
from sightline.samples.codecs import regions_in
from sightline.samples.geometry import decode_mask, encode_mask
from sightline.samples.sample import Mask, Origin, Picture, Polygon, Region, Sample, Text
from sightline.samples.store import Store


def mask(*boxes: tuple[int, int, int, int]) -> Mask:
    pixels = np.zeros((60, 80), bool)
    for x0, y0, x1, y1 in boxes:
        pixels[y0:y1, x0:x1] = True
    return encode_mask(pixels)


def sample(*regions: Region, name: str = "s") -> Sample:
    shown = Picture(hash=name, width=80, height=60, data=b"")
    return Sample(id=name, pictures=(shown,), annotations=regions, origin=Origin(source="test", row=name))


PONDS = sample(Region(label="pond", shape=mask((5, 5, 20, 20), (50, 40, 70, 55))), Region(label="grass", shape=mask((30, 0, 40, 60))))
TANK = sample(Region(label="storage-tank", shape=Polygon(points=((50.0, 5.0), (70.0, 5.0), (70.0, 20.0)))), name="t")


def pairs(config: Segment, one: Sample, seed: int = 0) -> list[tuple[str, list[Mask], str]]:
    """Question, masks and words of the answer of each pair."""
    [made] = config.learn([PONDS, TANK]).each(one, np.random.default_rng(seed), ()).samples
    assert not made.problems("x") and made.attributes["turns"] == "independent"
    found = []
    for number in range(0, len(made.turns), 2):
        answer = made.turns[number + 1]
        shapes = [region.shape for region in regions_in(answer.items)]
        assert all(isinstance(shape, Mask) for shape in shapes)
        found.append((made.text(number), shapes, "".join(item.text for item in answer.items if isinstance(item, Text))))
    return found  # pyright: ignore[reportReturnType]


def test_all_objects_of_a_label_in_reading_order() -> None:
    [(asked, shapes, words)] = pairs(Segment(per_picture=1, absent=0, placed=0, ask=("segment the {what}",)), PONDS)
    assert (asked, words) == ("segment the pond", "")
    assert [decode_mask(shape).sum() for shape in shapes] == [225, 300]


def test_single_objects_by_their_quadrant() -> None:
    found = pairs(Segment(per_picture=4, absent=0, placed=1, ask=("mark {a_what}",)), PONDS)
    assert {asked: [int(decode_mask(shape).sum()) for shape in shapes] for asked, shapes, _ in found} == {
        "mark a pond in the northwest": [225],
        "mark a pond in the southeast": [300],
    }


def test_what_is_not_there() -> None:
    found = pairs(Segment(per_picture=4, absent=0.99, none="nothing"), PONDS)
    assert ("nothing", []) in [(words, shapes) for _, shapes, words in found]
    assert [asked for asked, shapes, _ in found if not shapes] and all("storage tank" in asked for asked, shapes, _ in found if not shapes)
    [made] = Segment(per_picture=4, absent=0.99).learn([PONDS, TANK]).each(PONDS, np.random.default_rng(0), ()).samples
    kinds = str(made.attributes["kind"]).split(",")
    assert [kind == ABSENT for kind in kinds] == [label == "storage-tank" for label in made.attributes["asked"]] and set(kinds) <= {THERE, ABSENT}


def test_polygons_and_instances_are_one_object_each() -> None:
    [(_, shapes, _)] = pairs(Segment(per_picture=1, absent=0), TANK)
    assert len(shapes) == 1
    both = sample(Region(label="pond", shape=mask((5, 5, 20, 20), (50, 40, 70, 55)), attributes={"instance": 1}), name="i")
    [(_, shapes, _)] = pairs(Segment(per_picture=1, absent=0), both)
    assert len(shapes) == 1 and decode_mask(shapes[0]).sum() == 525


def test_what_is_not_clear_is_not_asked() -> None:
    speck = sample(Region(label="pond", shape=mask((5, 5, 20, 20), (50, 40, 51, 42))), name="p")
    crowd = sample(Region(label="pond", shape=mask((5, 5, 20, 20)), attributes={"crowd": True}), name="c")
    learnt = Segment(per_picture=4, absent=0).learn([PONDS, TANK])
    for one in (speck, crowd, replace(PONDS, pictures=())):
        outcome = learnt.each(one, np.random.default_rng(0), ())
        assert outcome.verdict == "quarantined" and not outcome.samples
    many = Segment(per_picture=4, absent=0, most=1, placed=0).learn([PONDS, TANK]).each(PONDS, np.random.default_rng(0), ())
    assert many.rule == "segment/nothing-to-ask"


def test_a_set_without_masks_and_wordings_without_a_slot_are_refused() -> None:
    with pytest.raises(Refused) as refused:
        Segment().learn([sample(Region(label="pond"))])
    assert refused.value.problems[0].code == "data/no-masks"
    for wording in ("segment it", "segment {label}", "{what"):
        with pytest.raises(ValidationError):
            Segment(ask=(wording,))


def test_made_scenes_are_asked_about(tmp_path: Path) -> None:
    make(Scenes(count=12, seed=5), tmp_path / "scenes", workers=1)
    read_sets(sets_of([(LabelMasks(), tmp_path / "scenes")]), tmp_path / "store")
    store = Store.open(tmp_path / "store")
    rows = [store[number] for number in range(12)]
    learnt = Segment(per_picture=4).learn(rows)
    assert {"pond", "tank", "vehicle"} & set(learnt.labels) and "grass" not in learnt.labels
    made = [one for row in rows for one in learnt.each(row, np.random.default_rng(1), ()).samples]
    assert len(made) > 8 and sum(bool(regions_in(turn.items)) for one in made for turn in one.turns) > 15
