"""Questions in the words of the training data."""

from __future__ import annotations

import pytest

from sightline.errors import Refused
from sightline.refine.annotate_questions import Learnt, checked_labels, checked_wording, learnt_from, question
from sightline.samples.sample import Origin, Picture, Region, Regions, RotatedBox, Sample, Show, Text, Turn

BOX = RotatedBox(cx=5, cy=5, w=4, h=2, theta=0)


def asked(text: str, label: str | None, answer: str = "", side: int = 64) -> Sample:
    """A question whose answer is a region, or words."""
    items = (Regions(regions=(Region(label=label, shape=BOX),)),) if label else (Text(text=answer),)
    turns = (Turn(role="user", items=(Show(), Text(text=text))), Turn(role="assistant", items=items))
    return Sample(id=text, pictures=(Picture(hash="0", width=side, height=9, data=b""),), turns=turns, origin=Origin(source="test"))


def test_wording_labels_words_and_sizes_are_told_from_the_data() -> None:
    rows = [asked("where is the ship?", "ship"), asked("where is the pond?", "pond", side=80), asked("where is the storage tank?", "tank", side=80)]
    rows += [asked("find ships", "ship"), asked("is there a pond? yes or no?", None, "Yes."), asked("what colour is it?", None, "red")]
    learnt = learnt_from(rows)
    assert learnt == Learnt(
        labels=("pond", "ship", "tank"), words={"tank": "storage tank"}, ask="where is the {label}?", presence="is there {a_label}? yes or no?", side=72
    )
    assert learnt.ask is not None and learnt.presence is not None
    assert question(learnt.ask, "tank", learnt.words) == "where is the storage tank?"
    assert question(learnt.presence, "air-field", learnt.words) == "is there an air field? yes or no?"
    assert question("Find all {labels}.", "pond", {}) == "Find all ponds."


def test_data_without_regions_teach_nothing() -> None:
    assert learnt_from([asked("what is it?", None, "a ship")]) == Learnt()


def test_labels_and_wordings_are_checked() -> None:
    learnt = Learnt(labels=("pond", "ship"))
    assert checked_labels(("all",), learnt) == ("pond", "ship") and checked_labels(("jet",), learnt) == ("jet",)
    for given, known in ((("all",), Learnt()), ((), learnt), (("ship", "ship"), learnt)):
        with pytest.raises(Refused, match="refine/labels"):
            checked_labels(given, known)
    assert checked_wording("where {label}") == "where {label}"
    with pytest.raises(Refused, match="refine/wording"):
        checked_wording("where is it?")
