"""Questions about the class of a whole picture, in both languages."""

from __future__ import annotations

import io
from functools import cache

import pytest
from PIL import Image

from sightline.data.labels import LabelTable
from sightline.data.operators import apply
from sightline.data.synthesis.synthesize import Synthesize
from sightline.samples.pictures import describe
from sightline.samples.sample import Box, Origin, Picture, Region, Sample

CLASSES = ("airport", "beach", "forest", "bridge", "desert", "river")


@cache
def picture() -> Picture:
    out = io.BytesIO()
    Image.new("RGB", (40, 40)).save(out, "PNG")
    return describe(out.getvalue(), "p.png", "here")


def scene(name: str, *labels: str) -> Sample:
    regions = tuple(Region(label=label, attributes={"class": label}) for label in labels)
    return Sample(id=name, pictures=(picture(),), annotations=regions, origin=Origin(source="classes"))


def asked(kind: str, samples: list[Sample], **fields: object) -> list[tuple[Sample, str, str | None]]:
    return list(apply([Synthesize.model_validate({"kinds": {kind: 1}, **fields})], samples, 0))


SET = [scene(f"{label}{number}", label) for label in CLASSES for number in range(5)]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_class_is_said_in_the_language_of_the_question(language: str) -> None:
    table = LabelTable.load()
    for terse in (0.0, 1.0):
        made = [row for row, verdict, _ in asked("scene", SET, languages=[language], terse=terse) if verdict == "kept"]
        assert len(made) == len(SET)
        for row in made:
            word = table.said(row.annotations[0].label or "", language)
            assert row.attributes["answers"] == [word] and (row.text(1) == word if terse else word in row.text(1) != word)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_one_of_the_options_is_the_class_and_all_are_of_the_set(language: str) -> None:
    table = LabelTable.load()
    words = {table.said(label, language) for label in CLASSES}
    made = [row for row, verdict, _ in asked("scene-choice", SET, languages=[language], terse=1.0) if verdict == "kept"]
    assert len(made) == len(SET) and len({row.text(1) for row in made}) == 4
    for row in made:
        options, [letter] = row.attributes["options"], row.attributes["answers"]
        assert len(set(options)) == 4 and set(options) <= words and row.text(1) == letter
        assert options["ABCD".index(letter)] == table.said(row.annotations[0].label or "", language)


def test_pictures_without_one_class_are_not_asked_about() -> None:
    box = Sample(id="b", pictures=(picture(),), annotations=(Region(label="ship", shape=Box(x0=1, y0=1, x1=9, y1=9)),), origin=Origin(source="boxes"))
    for kind in ("scene", "scene-choice"):
        assert [rule for _, _, rule in asked(kind, [scene("two", "beach", "river"), scene("hidden", "background"), box])] == ["synthesize/nothing-to-ask"] * 3
    assert [rule for _, _, rule in asked("scene-choice", [scene("alone", "beach")])] == ["synthesize/nothing-to-ask"]  # no other class to choose from


def test_no_option_is_wider_than_the_class() -> None:
    pair = [scene("a", "car"), scene("b", "vehicle"), scene("c", "beach")]
    for row, verdict, _ in asked("scene-choice", pair, languages=["en"]):
        assert verdict == "kept" and not {"car", "vehicle"} <= set(row.attributes["options"])
