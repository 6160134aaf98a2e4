"""Rules that set questions, captions and repeated answers aside."""

from __future__ import annotations

import numpy as np
import pytest

from sightline.data.filters import DropCaptions, DropQuestions, KnownLabels, Variety, answer_template, labels_in, strange_labels, words
from sightline.data.labels import LabelTable
from sightline.data.operators import apply
from sightline.samples.sample import Box, Origin, Picture, Region, Sample, Show, Text, Turn

PICTURE = Picture(hash="p", width=10, height=10, data=b"")
RNG = np.random.default_rng(0)


def asked(*pairs: tuple[str, str], kind: str = "", independent: bool = True) -> Sample:
    turns: list[Turn] = []
    for number, (question, answer) in enumerate(pairs):
        show = (Show(picture=0),) if number == 0 else ()
        turns += [Turn(role="user", items=(*show, Text(text=question))), Turn(role="assistant", items=(Text(text=answer),))]
    attributes = {"kind": kind, **({"turns": "independent"} if independent else {})}
    return Sample(id="a", pictures=(PICTURE,), turns=tuple(turns), attributes=attributes, origin=Origin(source="set"))


def captioned(*texts: str, maker: str = "human", labels: tuple[str, ...] = ()) -> Sample:
    first, *others = [(Text(text=text),) for text in texts]
    turns = (Turn(role="user", items=(Show(picture=0),)), Turn(role="assistant", items=first, alternatives=tuple(others)))
    known = tuple(Region(label=label, shape=Box(x0=0, y0=0, x1=5, y1=5)) for label in labels)
    return Sample(id="a", pictures=(PICTURE,), turns=turns, annotations=known, origin=Origin(source="set", maker=maker))


@pytest.mark.parametrize(
    ("question", "answer", "rule"),
    [
        ("图中水体的面积是多少?", "12", "area"), ("What is the area of the lake?", "2 km2", "area"), ("How large is the field?", "large", "area"), ("有多少艘船?", "25", "count"),
        ("How many ships are there?", "108", "count"), ("How many ships are there?", "10", None), ("图中有几座桥", "3", None), ("Is there a square?", "yes", None),
    ],
)  # fmt: skip
def test_questions_that_nobody_can_answer(question: str, answer: str, rule: str | None) -> None:
    outcome = DropQuestions().each(asked((question, answer), independent=False), RNG, ())
    assert outcome.rule == (rule and f"drop-questions/{rule}") and (outcome.verdict == "quarantined") == bool(rule)


def test_a_dialogue_loses_its_pair_and_keeps_its_picture() -> None:
    sample = asked(("How large is the field?", "vast"), ("a road?", "yes"), ("How many cars?", "99"), kind="area,presence,count")
    (left,) = DropQuestions().each(sample, RNG, ()).samples
    assert [left.text(number) for number in range(len(left.turns))] == ["a road?", "yes"]
    assert left.turns[0].items[0] == Show(picture=0) and left.attributes["kind"] == "presence"
    assert left.attributes["dropped"] == {"drop-questions/area": 1, "drop-questions/count": 1}
    whole = DropQuestions().each(asked(("a road?", "yes"), ("a pond?", "no")), RNG, ())
    assert whole.samples[0].id == "a" and "dropped" not in whole.samples[0].attributes


def test_kinds_and_patterns_of_ones_own() -> None:
    assert DropQuestions(kinds=("comp",)).each(asked(("more roads?", "yes"), kind="comp", independent=False), RNG, ()).rule == "drop-questions/kind"
    assert DropQuestions(matching=("colou?r",)).each(asked(("What COLOR is it?", "grey"), independent=False), RNG, ()).rule == "drop-questions/matching"
    assert DropQuestions(area=False, most=None).each(asked(("How large? How many?", "99"), independent=False), RNG, ()).verdict == "kept"


@pytest.mark.parametrize(
    ("text", "rule"),
    [("a field", "length"), ("word " * 81, "length"), ("!!! ### --- $$$ a b c", "letters"), ("great stock photo of a pier", "boilerplate"), ("see www.harbour.org for more", "boilerplate"),
     ("two ships in a harbour", None), ("港口里有两艘船", None)],
)  # fmt: skip
def test_what_is_no_caption(text: str, rule: str | None) -> None:
    outcome = DropCaptions().each(captioned(text), RNG, ())
    assert outcome.rule == (rule and f"drop-captions/{rule}")


def test_good_captions_of_a_picture_stay() -> None:
    (left,) = DropCaptions().each(captioned("a pier", "two ships in a harbour", "click here for more ships", "three white ships at sea"), RNG, ()).samples
    assert left.text(1) == "two ships in a harbour" and len(left.turns[1].alternatives) == 1


def test_words_of_two_languages() -> None:
    assert words("a well-known pier, 2 ships") == ["a", "well-known", "pier", "2", "ships"] and len(words("两艘船 ok")) == 4


def test_labels_that_a_text_names() -> None:
    table = LabelTable.load()
    assert labels_in("Two small vehicles near a storage tank; no ships.", table) == {"small-vehicle", "storage-tank", "ship"}
    assert labels_in("足球场的旁边是储罐和建筑物", table) == {"soccer-ball-field", "storage-tank", "building"}


def test_texts_that_name_what_is_not_there() -> None:
    table = LabelTable.load()
    known = [Region(label="small-vehicle"), Region(label="Road")]
    assert strange_labels("vehicles on a road beside a harbour", known, table) == {"harbor"}
    sample = captioned("cars on a road beside a harbour", maker="model:captioner", labels=("car", "road"))
    assert KnownLabels().each(sample, RNG, ()).rule == "known-labels/unknown"
    assert KnownLabels().each(captioned("a harbour", labels=("car",)), RNG, ()).verdict == "kept"
    assert KnownLabels(written_only=False).each(captioned("a harbour", labels=("car",)), RNG, ()).verdict == "quarantined"
    assert KnownLabels().each(captioned("a harbour", maker="model:captioner"), RNG, ()).verdict == "kept"


def test_one_template_does_not_fill_a_set() -> None:
    def told(number: int, text: str, label: str) -> Sample:
        sample = captioned(text, labels=(label,))
        return Sample(id=str(number), pictures=sample.pictures, turns=sample.turns, annotations=sample.annotations, origin=sample.origin)

    samples = [told(number, f"Yes, there are {number} {label} here", label) for number, label in enumerate(["ships", "roads", "tanks", "ponds"] * 5)]
    samples += [
        told(100 + number, text, "x") for number, text in enumerate(["yes"] * 8 + ["a quiet harbour at night with boats", "some fields and one narrow road"])
    ]
    rows = list(apply([Variety(most=0.1, least=2)], samples, 0))
    gone = [sample.id for sample, verdict, rule, *_ in rows if verdict == "quarantined" and rule == "variety/template"]
    assert len(gone) == 20 - 3 and all(int(name) < 100 for name in gone)
    assert gone == [sample.id for sample, verdict, *_ in apply([Variety(most=0.1, least=2)], samples, 0) if verdict == "quarantined"]


def test_templates_leave_out_particulars() -> None:
    known = (Region(label="large-vehicle"),)
    assert answer_template("There are 12 Large  Vehicles.", known) == answer_template("there are 3 large vehicles.", known) == "there are # *s."
