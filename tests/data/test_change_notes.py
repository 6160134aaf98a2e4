"""Pairs as two lists of words: what stands where, the same questions and answers, and no picture."""

from __future__ import annotations

import io

from PIL import Image

from sightline.data.change_notes import ChangeNotes
from sightline.data.operators import apply
from sightline.samples.pictures import describe
from sightline.samples.sample import Box, Origin, Region, Regions, Sample, Show, Text, Turn

THINGS = [[["building", 90.0, 10.0], ["pond", 12.0, 50.0]], [["pond", 12.0, 50.0]]]


def pair(things: object = THINGS, answer: tuple = (Text(text="torn down"),), number: int = 0) -> Sample:
    out = io.BytesIO()
    Image.new("RGB", (96, 80)).save(out, "PNG")
    shown = describe(out.getvalue(), "p.png", "here")
    turns = (
        Turn(role="user", items=(Show(), Show(picture=1), Text(text="What happened?"))),
        Turn(role="assistant", items=answer),
        Turn(role="user", items=(Show(), Show(picture=1), Text(text="Any change?"))),
        Turn(role="assistant", items=(Text(text="Yes"),)),
    )
    attributes = {"kind": "change-kind,change", **({"things": things} if things is not None else {})}
    return Sample(id=f"p{number}", pictures=(shown, shown), turns=turns, attributes=attributes, origin=Origin(source="pairs"))


def noted(*samples: Sample, cells: int = 4) -> list[tuple[Sample, str, str | None]]:
    return list(apply([ChangeNotes(cells=cells)], samples, 0))


def test_one_word_a_thing_in_the_place_of_the_pictures() -> None:
    [(made, verdict, _)] = noted(pair())
    assert verdict == "kept" and made.pictures == () and made.annotations == () and made.problems("here") == []
    notes = {made.text(turn).rpartition(" . ")[0] for turn in (0, 2)}
    assert len(notes) == 1  # all questions of a row begin alike
    earlier, _, later = notes.pop().partition(" later: ")
    assert sorted(earlier.removeprefix("earlier: ").split(" . ")) == ["a3pond", "d1building ."] or set(earlier.split()) == {
        "earlier:",
        "a3pond",
        "d1building",
        ".",
    }
    assert later == "a3pond"
    assert [made.text(turn).rpartition(" . ")[2] for turn in (0, 2)] == ["What happened?", "Any change?"] and made.text(1) == "torn down"
    assert "things" not in made.attributes and made.attributes["kind"] == "change-kind,change" and made.origin.parents == ("p0",)


def test_cells_and_empty_days() -> None:
    [(made, _, _)] = noted(pair(things=[[], [["road", 96.0, 80.0], ["tank", 0.0, 0.0]]]), cells=2)
    assert made.text(0).startswith("earlier: nothing . later: ") and {"b2road", "a1tank"} <= set(made.text(0).split())


def test_things_come_in_any_order() -> None:
    assert len({made.text(0) for made, _, _ in noted(*(pair(number=number) for number in range(8)))}) == 2


def test_what_is_not_known_or_needs_a_picture_is_set_aside() -> None:
    boxes = (Regions(regions=(Region(picture=1, shape=Box(x0=1, y0=1, x1=9, y1=9)),)),)
    rules = [rule for _, _, rule in noted(pair(things=None), pair(answer=boxes, number=1))]
    assert rules == ["change-notes/nothing-known", "change-notes/regions"]
