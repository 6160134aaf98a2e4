"""Operators whose texts a model writes: what is asked, what is taken, what becomes of the rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from sightline.cli.writing_verbs import STYLES
from sightline.data.manners import MANNERS, box_notes, cut
from sightline.data.operators import apply
from sightline.data.rewriting import AskQuestions, Rewrite, Style
from sightline.data.writing_prompts import _brought, prompt_of
from sightline.errors import Refused
from sightline.samples.exchange import Answer, Request
from sightline.samples.sample import Box, Origin, Picture, Point, Region, Regions, RotatedBox, Sample, Show, Text, Turn

PICTURE = Picture(hash="p", width=200, height=100, data=b"")
SHIP = Region(label="ship", shape=Box(x0=20, y0=10, x1=60, y1=30))
QUESTION = "Question:\nHow many ships are there?\n===\nAnswer:\n{}"


class Teller:
    """Says what a function of the request says."""

    def __init__(self, say: Callable[[Request], str], finish: Any = "stop") -> None:
        self.say, self.finish = say, finish
        self.asked: list[Request] = []

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        for request in requests:
            self.asked.append(request)
            yield Answer(key=request.sample.id, sample=request.sample.id, weights="w", text=self.say(request), finish=self.finish)

    def measure(self, sample: Sample) -> int:
        return 0


def row(name: str = "a", *pairs: tuple[str, Any], pictures: int = 1, annotations: tuple[Region, ...] = (), **attributes: Any) -> Sample:
    turns: list[Turn] = []
    for question, answer in pairs:
        turns.append(Turn(role="user", items=(*((Show(),) if pictures and not turns else ()), *((Text(text=question),) if question else ()))))
        turns.append(Turn(role="assistant", items=answer if isinstance(answer, tuple) else (Text(text=answer),)))
    return Sample(
        id=name, pictures=(PICTURE,) * pictures, turns=tuple(turns), annotations=annotations, attributes=attributes, origin=Origin(source="s", row=name)
    )


def done(operator: Any, sample: Sample, *says: str, finish: Any = "stop") -> tuple[Sample, str, str | None, Teller]:
    """The row that comes out, its verdict and rule, and who was asked. `says`: one text for each request."""
    said = iter(says)
    teller = Teller(lambda request: next(said), finish)
    [(made, verdict, rule)] = apply([operator], [sample], seed=1, answerers=lambda asking: teller)
    return made, verdict, rule, teller


def rewrite(style: str, **options: Any) -> Rewrite:
    return Rewrite.model_validate({"with": "http://host:1/v1#teller", "style": style, **options})


def test_short_answers_become_sentences() -> None:
    sample = row("a", ("图中有几座桥", "3"), ("图中篮球场的旁边是什么?", "足球场"))
    made, verdict, _, teller = done(rewrite("enrich"), sample, "在图片中,你可以清晰地看到有三座桥。", "旁边是一座教堂。")
    assert (verdict, made.text(1), made.text(3)) == ("kept", "在图片中,你可以清晰地看到有三座桥。", "足球场")
    assert made.attributes == {"rewrite": "enrich,rejected: labels", "before": ["3"]}
    assert made.origin == Origin(source="s", row="a", parents=("a",), maker="model:teller") and made.turns[0] == sample.turns[0]
    assert [request.sample.id for request in teller.asked] == ["a#enrich-0", "a#enrich-1"] and not any(request.sample.pictures for request in teller.asked)
    seeds = {request.decoding.seed for request in teller.asked}
    assert len(seeds) == 2 and teller.asked[0].decoding.temperature == 0.7
    assert "问题: 图中有几座桥\n简短答案: 3" in teller.asked[0].sample.text(3) and "足球场" in teller.asked[0].sample.text(1), "our example comes first"


def test_a_rejected_text_leaves_the_row_or_sets_it_aside() -> None:
    sample = row("a", ("How many ships?", "3"))
    made, verdict, rule, _ = done(rewrite("enrich"), sample, "There are four ships.")
    assert verdict == "kept" and made == replace(sample, attributes={"rewrite": "rejected: numbers"}) and made.origin.maker == "human"
    made, verdict, rule, _ = done(rewrite("enrich", rejected="quarantine"), sample, "There are four ships.")
    assert (made, verdict, rule) == (sample, "quarantined", "rewrite/numbers")
    for finish, reason in (("length", "cut"), ("refused", "refused")):
        assert done(rewrite("enrich"), sample, "There are three ships.", finish=finish)[0].attributes["rewrite"] == f"rejected: {reason}"
    assert done(rewrite("enrich"), sample, "x" * 30_000)[0].attributes["rewrite"] == "rejected: long"
    assert done(rewrite("enrich"), sample, "图中有3艘船。")[0].attributes["rewrite"] == "rejected: language"


def test_regions_of_an_answer_come_back_in_their_place() -> None:
    ship = Regions(regions=(SHIP,), label="ship")
    sample = row("a", ("Where is it?", (Text(text="at "), ship)))
    made, _, _, teller = done(rewrite("enrich"), sample, "You can see a ship [region-1] here.")
    assert teller.asked[0].sample.text(3).endswith("Short answer: at ship [region-1]\nNatural answer:")
    assert made.turns[1].items == (Text(text="You can see a "), ship, Text(text=" here."))
    made, _, _, _ = done(rewrite("enrich"), sample, "The ship lies at [region-1].")
    assert made.turns[1].items == (Text(text="The ship lies at "), replace(ship, label=None), Text(text="."))
    assert done(rewrite("enrich"), sample, "It is a ship.")[0].attributes["rewrite"] == "rejected: boxes"
    odd, _, _, teller = done(rewrite("enrich"), row("a", ("Say", "[region-3]")))
    assert teller.asked == [] and odd.attributes == {"rewrite": "rejected: nothing-known"}


KNOWN = row("a", annotations=(SHIP, SHIP, Region(label="harbor")), references=["Two ships in a harbor.", "ships"])


def test_what_is_known_is_told_as_notes() -> None:
    turned = Region(label="plane", shape=RotatedBox(cx=100, cy=50, w=50, h=20, theta=-90))
    notes = box_notes(replace(KNOWN, annotations=(*KNOWN.annotations, turned, Region(label="dot", shape=Point(x=1, y=1)))))
    assert notes.splitlines() == ["plane: [0.450, 0.250, 0.550, 0.750]", "ship: [0.100, 0.100, 0.300, 0.300]", "harbor", "dot"]
    crowd = tuple(Region(label="car", shape=Box(x0=0, y0=0, x1=1, y1=1 + number)) for number in range(130))
    assert box_notes(replace(KNOWN, annotations=crowd)).splitlines()[-1] == "car: 30 more"
    _, _, _, teller = done(rewrite("detail"), KNOWN, "Two ships lie in the harbor.")
    assert teller.asked[0].sample.text(1).startswith("Two ships in a harbor.\nships\n\nship: [0.100, 0.100, 0.300, 0.300]")
    _, _, _, teller = done(rewrite("conversation"), KNOWN, "")
    assert teller.asked[0].sample.text(1) == "Two ships in a harbor.\nships"


def test_dialogues_are_made_of_captions_and_boxes() -> None:
    said = QUESTION.format("Two.") + "\n===\nQuestion: And planes?\n===\nAnswer: No, there are no planes."
    made, verdict, _, _ = done(rewrite("conversation"), KNOWN, said)
    assert verdict == "kept" and [turn.role for turn in made.turns] == ["user", "assistant"] * 2
    assert made.turns[0].items == (Show(), Text(text="How many ships are there?")) and made.turns[2].items == (Text(text="And planes?"),)
    assert made.attributes["kind"] == "conversation,conversation" and made.attributes["rewrite"] == "conversation" and made.annotations == KNOWN.annotations
    made, _, _, _ = done(rewrite("conversation"), KNOWN, QUESTION.format("Two.") + "\n===\nQuestion: What else?\n===\nAnswer: A bridge.")
    assert len(made.turns) == 2 and made.attributes["rewrite"] == "conversation,rejected: labels"
    made, _, _, _ = done(rewrite("detail"), KNOWN, "Two ships lie in the harbor.")
    assert made.text(1) == "Two ships lie in the harbor." and made.text(0) in prompt_of("detail", "en").questions
    made, _, _, _ = done(rewrite("reasoning"), KNOWN, "Question: Why?\n===\nAnswer: Trucks bring what they carry.")
    assert (made.text(0), made.text(1)) == ("Why?", "Trucks bring what they carry.")


@pytest.mark.parametrize(
    ("style", "text", "reason"),
    [
        ("conversation", "Two ships.", "format"),
        ("conversation", QUESTION.format("As the caption says, two."), "source"),
        ("conversation", QUESTION.format("A bridge."), "labels"),
        ("detail", QUESTION.format("Two."), "format"),
        ("detail", "", "empty"),
        ("detail", "A ship at [0.1, 0.2, 0.3, 0.4].", "source"),
        ("detail", "A ship. As an AI, I see no more.", "self"),
        ("reasoning", QUESTION.format("Two.") + "\n===\n" + QUESTION.format("Two."), "format"),
    ],
)
def test_dialogues_that_fail_are_dropped(style: str, text: str, reason: str) -> None:
    made, verdict, _, _ = done(rewrite(style), KNOWN, text)
    assert verdict == "kept" and made == replace(KNOWN, attributes={**KNOWN.attributes, "rewrite": f"rejected: {reason}"})


def test_rows_of_which_nothing_is_known_are_told() -> None:
    for style in ("conversation", "detail", "reasoning", "fuse", "enrich"):
        _, verdict, rule, teller = done(rewrite(style, rejected="quarantine"), row())
        assert (verdict, rule, teller.asked) == ("quarantined", "rewrite/nothing-known", [])
    assert done(rewrite("detail"), row("a", ("Is it so?", "yes")))[0].attributes == {"rewrite": "rejected: nothing-known"}, "an answer is no caption"


def test_captions_are_fused_or_the_written_one_stays() -> None:
    sample = row("a", laion_2b="ann's BAKERY oslo", laion_coco="Some cakes on a table.", pictures=0)
    made, _, _, teller = done(rewrite("fuse"), sample, '"Cakes of Ann\'s bakery in Oslo on a table."')
    assert made.text(1) == "Cakes of Ann's bakery in Oslo on a table." and made.origin.maker == "model:teller"
    assert teller.asked[0].sample.text(1) == "Sentence 1: ann's BAKERY oslo\nSentence 2: Some cakes on a table.\n\nNew Sentence:"
    made, _, _, _ = done(rewrite("fuse"), sample, "Cakes in Bergen on a table.")
    assert made.text(1) == "Some cakes on a table." and made.attributes["rewrite"] == "rejected: names" and made.origin.maker == "human"
    turns = row("b", ("", "the web says")).turns
    both = replace(row("b", captions_from=["web", "synthetic"]), turns=(turns[0], replace(turns[1], alternatives=((Text(text="a cake"),),))))
    assert "Sentence 1: the web says\nSentence 2: a cake" in done(rewrite("fuse"), both, "the web says: a cake")[3].asked[0].sample.text(1)
    assert cut("one two, three four", 2) == "one two" and cut("图中有船", 2) == "图中" and cut(" a b ", 5) == "a b"


def test_descriptions_are_polished_and_spoken() -> None:
    sample = row("a", ("", "Two ships in a harbor. Two ships in a harbor. The the"))
    made, _, _, _ = done(rewrite("polish"), sample, "Two ships in a harbor.")
    assert made.text(1) == "Two ships in a harbor." and made.attributes["rewrite"] == "polish" and made.attributes["before"][0].endswith("The the")
    made, _, _, _ = done(rewrite("spoken"), sample, "So what I see here is a harbor, and in it there are two ships.")
    assert made.attributes["rewrite"] == "spoken"
    assert done(rewrite("spoken"), sample, "I see a harbor.")[0].attributes["rewrite"] == "rejected: numbers"
    twice, _, _, _ = done(rewrite("polish"), replace(sample, attributes={"rewrite": "spoken"}), "Ten ships in a harbor.")
    assert twice.attributes["rewrite"] == "spoken; rejected: numbers"


def test_questions_about_pictures_are_checked() -> None:
    sample = replace(KNOWN, turns=row("a", ("old?", "old")).turns)
    said = "\n===\n".join([QUESTION.format("Three ships."), QUESTION.format("Two ships."), "Question: A bridge?\n===\nAnswer: Yes."])
    made, verdict, _, teller = done(AskQuestions.model_validate({"with": "m/x", "count": 3}), sample, said)
    assert verdict == "kept" and (made.text(0), made.text(1)) == ("How many ships are there?", "Two ships.") and len(made.turns) == 2
    assert made.attributes["rewrite"] == "rejected: count,ask,rejected: labels" and made.attributes["turns"] == "independent" and made.origin.maker == "model:x"
    [request] = teller.asked
    assert request.sample.turns[-1].items[0] == Show(picture=0) and "Write 3 different" in request.sample.text(1) and request.sample.pictures == (PICTURE,)
    made, _, _, _ = done(AskQuestions.model_validate({"with": "m/x"}), row("b"), QUESTION.format("Nine."))
    assert made.attributes["rewrite"] == "ask (unchecked)"
    made, _, rule, _ = done(AskQuestions.model_validate({"with": "m/x", "rejected": "quarantine"}), row("b"), "What?")
    assert rule == "ask-questions/format"
    assert done(AskQuestions.model_validate({"with": "m/x"}), row("b", pictures=0))[3].asked == []


def test_examples_of_the_user_stand_in_place_of_ours(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "text" / "llava" / "prompts" / "conversation"
    _, _, _, teller = done(rewrite("conversation", examples=str(folder)), KNOWN, "")
    turns = teller.asked[0].sample.turns
    assert [turn.role for turn in turns] == ["system", *["user", "assistant"] * 2, "user"]
    assert turns[0].items[0] == Text(text=(folder / "system_message.txt").read_text(encoding="utf-8").strip())
    (tmp_path / "000_caps.txt").write_text("x")
    with pytest.raises(Refused, match=r"000_conv.txt\n  found:   no such file"):
        done(rewrite("detail", examples=str(tmp_path)), KNOWN, "")
    with pytest.raises(Refused, match="no examples"):
        done(rewrite("detail", examples=str(tmp_path / "nowhere")), KNOWN, "")


def test_every_style_is_worded_in_both_languages() -> None:
    assert set(MANNERS) == set(STYLES) == set(get_args(Style))
    slots = {"question": "{q}", "answer": "{a}", "text": "{t}", "known": "{k}", "raw": "r", "synthetic": "s", "count": 3}
    for language, prompts in _brought().items():
        assert set(prompts) == {*MANNERS, "ask", "caption"}
        for style, prompt in prompts.items():
            told = prompt.turns(**slots)[-1].items[-1]
            assert isinstance(told, Text) and told.text and bool(prompt.questions) == (style == "detail"), (language, style)
    zh = done(rewrite("enrich", language="zh"), row("a", ("How many?", "3")), "3")[3].asked[0]
    assert "简短答案" in zh.sample.text(1)


def test_published_fusions_go_through(shared_data: Path) -> None:
    published = json.loads((shared_data / "text" / "capsfusion_example_data.json").read_text(encoding="utf-8"))[:400]
    said = {str(number): one["capsfuion_official"] for number, one in enumerate(published)}
    rows = [row(str(number), laion_2b=one["laion_2b"], laion_coco=one["laion_coco"]) for number, one in enumerate(published)]
    teller = Teller(lambda request: said[request.sample.id.partition("#")[0]])
    made = [sample for sample, _, _ in apply([rewrite("fuse")], rows, seed=1, answerers=lambda asking: teller)]
    fates = Counter(str(sample.attributes["rewrite"]) for sample in made)
    assert fates["fuse"] >= 350 and set(fates) <= {"fuse", "rejected: names", "rejected: numbers", "rejected: short"} and fates.total() == 400
    fallen = next(number for number, sample in enumerate(made) if sample.attributes["rewrite"] != "fuse")
    assert made[fallen].text(1) == published[fallen]["laion_coco"].strip()


def test_published_descriptions_are_taken_for_published_notes(shared_data: Path) -> None:
    """30 descriptions that a model wrote from captions and boxes; three name water that neither has."""
    folder = shared_data / "text" / "llava"
    notes, questions, answers = (
        [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]
        for name in ("caps_boxes_coco2014_val_80.jsonl", "qa90_questions.jsonl", "qa90_gpt4_answer.jsonl")
    )
    known = {one["image"]: one for one in notes}
    rows, said = [], {}
    for question, answer in zip(questions, answers, strict=True):
        assert question["question_id"] == answer["question_id"]
        if question["category"] == "detail":
            one = known[question["image"]]
            boxes = [(each["category"], [side * size for side, size in zip(each["bbox"], (200, 100) * 2, strict=True)]) for each in one["instances"]]
            regions = tuple(Region(label=label, shape=Box(x0=box[0], y0=box[1], x1=box[2], y1=box[3])) for label, box in boxes)
            rows.append(row(one["id"], annotations=regions, references=one["captions"]))
            said[one["id"]] = answer["text"]
    teller = Teller(lambda request: said[request.sample.id.partition("#")[0]])
    made = [sample for sample, _, _ in apply([rewrite("detail")], rows, seed=1, answerers=lambda asking: teller)]
    assert Counter(str(sample.attributes["rewrite"]) for sample in made) == {"detail": 27, "rejected: labels": 3}
    first = teller.asked[0].sample.text(1)
    assert first.splitlines()[:5] == rows[0].attributes["references"][:5] and ": [0." in first
