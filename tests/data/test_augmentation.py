"""Turned and mirrored samples."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from sightline.data.augmentation import Dihedral, turned_sample
from sightline.samples.dihedral import TURNS, turned_pixels
from sightline.samples.pictures import describe, pixels
from sightline.samples.sample import Box, Origin, Region, Regions, Sample, Show, Text, Turn

ARRAY = np.random.default_rng(0).integers(0, 256, (12, 20, 3)).astype(np.uint8)


def sample(format: str = "PNG", said: str = "the ship in the upper left corner") -> Sample:
    out = io.BytesIO()
    Image.fromarray(ARRAY).save(out, format)
    box = Region(label="ship", shape=Box(x0=1, y0=2, x1=5, y1=4))
    turns = (
        Turn(role="user", items=(Show(), Text(text="What is here?"))),
        Turn(role="assistant", items=(Text(text=said), Regions(regions=(box,), label="ship"))),
    )
    return Sample(id="a", pictures=(describe(out.getvalue(), "", "here"),), turns=turns, annotations=(box,), origin=Origin(source="set"))


def test_pixels_regions_and_words_move_together() -> None:
    for turn in range(TURNS):
        made = turned_sample(sample(), turn)
        assert made is not None and (pixels(made.pictures[0]) == turned_pixels(ARRAY, turn)).all()
        box = made.annotations[0].shape
        assert isinstance(box, Box)
        patch = pixels(made.pictures[0])[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)]
        assert (patch == turned_pixels(ARRAY[2:4, 1:5], turn)).all()
        spoken = made.turns[1].items[1]
        assert isinstance(spoken, Regions) and spoken.regions[0].shape == box
        assert made.problems("here") == []
    quarter = turned_sample(sample(), 1)
    assert (
        quarter is not None and quarter.text(1) == "the ship in the upper right corner" and quarter.attributes["turn"] == 1 and quarter.origin.parents == ("a",)
    )
    whole = sample()
    assert turned_sample(whole, 0) is whole


def test_jpeg_stays_jpeg_and_nearly_the_same() -> None:
    made = turned_sample(sample("JPEG"), 2)
    assert made is not None and isinstance(made.pictures[0].data, bytes) and made.pictures[0].data[:2] == b"\xff\xd8"
    before = turned_pixels(pixels(sample("JPEG").pictures[0]), 2).astype(int)
    assert np.abs(pixels(made.pictures[0]).astype(int) - before).mean() < 6


def test_one_turn_is_drawn_or_every_one_made() -> None:
    every = Dihedral(every=True).each(sample(), np.random.default_rng(0), ())
    assert [one.id for one in every.samples] == ["a", *(f"a@{turn}" for turn in range(1, TURNS))]
    assert len({one.pictures[0].hash for one in every.samples}) == TURNS
    drawn = [Dihedral().each(sample(), np.random.default_rng(seed), ()).samples[0].attributes.get("turn", 0) for seed in range(40)]
    assert set(drawn) == set(range(TURNS))


def test_doubtful_words_keep_a_row_as_it_is_or_set_it_aside() -> None:
    doubtful = sample(said="turn left here")
    assert Dihedral(turns=(1,)).each(doubtful, np.random.default_rng(0), ()).samples[0] is doubtful
    assert Dihedral(turns=(1,), doubtful="quarantine").each(doubtful, np.random.default_rng(0), ()).rule == "dihedral/doubtful"
    bare = Sample(id="b", origin=Origin(source="set"))
    assert Dihedral().each(bare, np.random.default_rng(0), ()).samples[0] is bare
