"""Every failure on constructed answers: found where it was put, with its figures, and not found where nothing is wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sightline.data.labels import LabelTable
from sightline.errors import Problem
from sightline.evaluate.failures.calibration import ece
from sightline.evaluate.failures.conventions import CONVENTIONS
from sightline.evaluate.failures.evidence import Case, Evidence, TextScores
from sightline.evaluate.failures.failure_table import FAILURE, examine
from sightline.evaluate.failures.finding import Failure, share_by
from sightline.evaluate.failures.hallucination import probes_of
from sightline.evaluate.failures.language_confusion import language_of
from sightline.evaluate.failures.mentions import Mentions
from sightline.evaluate.failures.repetition import loop
from sightline.evaluate.metrics import share
from sightline.samples.codec_kinds.rotated_codecs import XyhwtCodec
from sightline.samples.codecs import text_of
from sightline.samples.exchange import Answer
from sightline.samples.frames import frame_of
from sightline.samples.geometry import canonical
from sightline.samples.sample import Box, Origin, Picture, Region, Regions, RotatedBox, Sample, Show, Text, Turn

TABLE = LabelTable.load()
WIDTH, HEIGHT = 400, 300


def picture(number: int) -> Picture:
    return Picture(hash=f"picture-{number}", width=WIDTH, height=HEIGHT, data=b"")


def case(number: int, question: str, right: str | Sequence[str], given: str, kind: str = "vqa", labels: Sequence[str] = (), **more: Any) -> Case:
    asked = Sample(
        id=f"{number}#{kind}",
        pictures=(picture(number),),
        turns=(Turn(role="user", items=(Show(), Text(text=question))),),
        origin=Origin(source=more.pop("source", "made")),
    )
    fields = {name: more.pop(name) for name in ("finish", "logps", "items", "problems") if name in more}
    rights = (right,) if isinstance(right, str) else tuple(right)
    return Case(
        evaluation=more.pop("evaluation", "test"),
        name=asked.id,
        kind=kind,
        asked=asked,
        right=rights,
        annotations=tuple(Region(label=label) for label in labels),
        answer=Answer(key="", sample=asked.id, weights="", text=given, **fields),
        score=more.pop("score", float(given in rights)),
        **more,
    )


def found(cases: Sequence[Case], code: str, **more: Any) -> Failure:
    return {one.code: one for one in examine(Evidence(cases=tuple(cases), **more))}[code]


def boxed(number: int, truth: Sequence[RotatedBox], said: Sequence[RotatedBox] | str) -> Case:
    """A question for boxes; the answer is written and read by the codec, as a model's is."""
    codec, frame = XyhwtCodec(), frame_of("square", WIDTH, HEIGHT)
    text = said if isinstance(said, str) else text_of(codec.render(Regions(regions=tuple(Region(shape=box) for box in said)), frame)) if said else "nothing"
    items, problems = codec.parse(text, frame)
    reply = Turn(role="assistant", items=(Regions(regions=tuple(Region(shape=box) for box in truth)),))
    return replace(case(number, "where is the ship?", (), text, kind="grounding", items=items, problems=problems), reply=reply)


def scattered(count: int, seed: int = 0) -> list[RotatedBox]:
    rng = np.random.default_rng(seed)
    return [canonical(rng.uniform(60, 340), rng.uniform(60, 240), rng.uniform(50, 80), rng.uniform(16, 30), rng.uniform(-40, 40)) for _ in range(count)]


HEALTHY = [
    *(case(n, "is there a ship?", "yes" if n % 2 else "no", "yes" if n % 2 else "no", kind="presence", labels=["ship" if n % 2 else "car"], logps=(-0.001,)) for n in range(80)),
    *(case(n, "what does the picture show?", f"a ship and {n} cars", f"a ship and {n} cars", kind="caption", labels=["ship", "car"]) for n in range(80)),
    *(boxed(n, [box], [canonical(box.cx + 2, box.cy - 2, box.w * 1.05, box.h, box.theta + 2)]) for n, box in enumerate(scattered(60))),
]  # fmt: skip


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    failures = examine(Evidence(cases=tuple(HEALTHY)))
    assert not [one.code for one in failures if one.state == "found"]
    assert len({one.code for one in failures}) == len(failures), "each code once"
    assert all(one.note for one in failures if one.state == "not measured"), "what was not measured says why"
    assert not [one for one in examine(Evidence(cases=())) if one.state != "not measured"]


@pytest.mark.parametrize(
    ("text", "piece", "times"),
    [("", "", 0), ("the road is next to the road", "", 0), ("a " * 30, " a", 29), ("yes. " + "so wide. " * 4, "ide. so w", 4), ("图中有船。" * 5, "图中有船。", 5), ("ab" * 3, "", 0)],
)  # fmt: skip
def test_a_loop_is_what_ends_an_answer_again_and_again(text: str, piece: str, times: int) -> None:
    said, often = loop(text)
    assert often == times and sorted(said) == sorted(piece), "a loop has no first letter: any turn of it is the same"


def test_repetition_counts_loops_and_repeated_4_grams_but_not_what_right_answers_repeat() -> None:
    again = "the road is next to the road is next to the road"
    cases = [*HEALTHY[:80], *(case(200 + n, "describe it", "a road", f"{again} and more {n}", kind="caption") for n in range(20))]
    failure = found(cases, "failure/repetition")
    assert failure.state == "found" and failure.count == 20 and failure.rate.value == 0.2
    assert failure.worst and all("rep-4" in one.note for one in failure.worst)
    usual = [case(n, "describe it", again, again, kind="caption") for n in range(40)]
    assert found(usual, "failure/repetition").count == 0, "a right answer repeats as much"


def test_endless_answers_are_told_from_short_limits() -> None:
    cut = [case(n, "what?", "a ship", "a ship a ship a ship a ship", finish="length") for n in range(30)]
    assert found(cut, "failure/endless").state == "found"
    short = [case(n, "what?", "a ship beside a long pier in the north", "a ship beside", finish="length") for n in range(30)]
    failure = found(short, "failure/endless")
    assert failure.state == "clear" or failure.count == 0
    assert failure.figures["cut off"].value == 1


def test_one_answer_to_everything() -> None:
    cases = [case(n, "is there a ship?", "yes" if n % 2 else "no", "yes", kind="presence") for n in range(80)]
    failure = found(cases, "failure/same-answer")
    assert failure.state == "found" and failure.rate.value == pytest.approx(0.5) and "'yes'" in next(iter(failure.figures))


def test_chair_on_the_published_example() -> None:
    """Labels {ship, harbor}, {plane}, {road, building, car}; mentions [ship, bridge, ship, harbor], [plane, plane], [road, tree, car]: CHAIR_i 2/9, CHAIR_s 2/3, recall 5/6."""
    told = [
        ("a ship, a bridge, a ship and a harbor", ["ship", "harbor"], "a ship in a harbor"),
        ("a plane beside a plane", ["plane"], "one plane"),
        ("a road, a tree and a car", ["road", "building", "car"], "a road, a building and a car"),
    ]
    cases = [case(n, "what can be seen?", right, said, kind="caption", labels=labels) for n, (said, labels, right) in enumerate(told)]
    cases += [
        case(9, "what can be seen?", "a bridge and a tree", "a bridge and a tree", kind="caption", labels=["bridge", "tree"])
    ]  # its labels are known, too
    figures = found(cases[:3], "failure/hallucination").figures
    assert "CHAIR_i" in figures and figures["CHAIR_i"].value == 0, "a bridge is no label of these three sets"
    four = found(cases, "failure/hallucination")
    assert four.figures["CHAIR_i"].value == pytest.approx(2 / 11)
    assert four.figures["CHAIR_s"].value == pytest.approx(2 / 4)
    assert four.figures["recall of labels"].value == pytest.approx((2 + 1 + 2 + 2) / (2 + 1 + 3 + 2))
    assert {one.note for one in four.worst} == {"not there: bridge", "not there: tree"}


def test_yes_to_what_is_not_there_is_found() -> None:
    cases = [case(n, "is there a ship?", "no", "yes, there is", kind="presence", labels=["car"], logps=(-0.1,)) for n in range(40)]
    failure = found(cases, "failure/hallucination")
    assert failure.state == "found" and failure.figures["yes to what is not there"].value == 1
    other = [case(n, "where is it?", "northeast", "yes", labels=["car"]) for n in range(40)]
    assert found(other, "failure/hallucination").state == "not measured", "`northeast` is no no"


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("a tennis court beside two Storage Tanks", ["tennis-court", "storage-tank"]),
        ("three buses and a bus", ["bus", "bus"]),
        ("busy streets", []),
        ("a bus stop, a bus", ["bus stop", "bus"]),
        ("there is no ship, without any car, but a plane", ["plane"]),
        ("图中有飞机和两艘船只，没有汽车", ["plane", "ship"]),
        ("an airplane and aircraft", ["plane", "plane"]),
    ],
)
def test_mentions(text: str, labels: list[str]) -> None:
    mentions = Mentions(TABLE, ["tennis-court", "court", "storage-tank", "bus", "bus stop", "ship", "car", "plane"])
    assert mentions.of(text) == labels


def test_a_narrower_label_is_no_invention() -> None:
    mentions = Mentions(TABLE, ["car", "vehicle", "ship"])
    assert mentions.holds({"car"}, "vehicle") and mentions.holds({"vehicle"}, "car") and not mentions.holds({"ship"}, "car")


def test_probes_ask_six_questions_three_of_absent_things() -> None:
    sets = [["ship", "car", "plane", "bus"], ["ship", "bridge"], ["ship", "bridge"], ["plane", "tree"], ["river"], ["river"], ["river"]]
    samples = [
        Sample(id=str(n), pictures=(picture(n),), annotations=tuple(Region(label=label) for label in own), origin=Origin(source="made"))
        for n, own in enumerate(sets)
    ]
    mentions = Mentions(TABLE, {label for own in sets for label in own})
    probes = [probe for probe in probes_of(samples, mentions, np.random.default_rng(0)) if probe.source.id == "0"]
    assert [probe.kind for probe in probes] == ["probe-present"] * 3 + ["probe-popular", "probe-adversarial", "probe-random"]
    absent = {probe.request.sample.id.split(":")[1] for probe in probes[3:]}
    assert len(absent) == 3 and not absent & set(sets[0]) and probes[4].request.sample.id.endswith(":bridge"), "a bridge stands beside ships"
    assert probes[0].request.sample.text(0).startswith("Is there a") and not probes[0].request.sample.annotations


def test_answers_that_do_not_depend_on_the_picture() -> None:
    def asked(n: int, own: float, other: float, text: str = "a ship") -> Case:
        return replace(case(n, "what?", "a ship", text, score=own), shuffled=Answer(key="", sample="", weights="", text="a ship"), shuffled_score=other)

    blind = [asked(n, float(n % 3 == 0), float(n % 3 == 0)) for n in range(200)]
    assert found(blind, "failure/no-picture").state == "found"
    looks = [asked(n, float(n % 10 != 0), float(n % 3 == 0)) for n in range(200)]
    failure = found(looks, "failure/no-picture")
    assert failure.state == "clear" and failure.figures["gain"].value == pytest.approx(0.9 - 67 / 200)


def test_missed_and_extra_boxes() -> None:
    boxes = scattered(40)
    far = [canonical(30, 280, 20, 12, 0)]
    missed = [boxed(n, [box, *far], [box]) for n, box in enumerate(boxes)]
    failure = found(missed, "failure/region-missed")
    assert failure.state == "found" and failure.rate.value == pytest.approx(0.5) and failure.figures["found at IoU 0.5"].value == pytest.approx(0.5)
    assert found(missed, "failure/region-extra").state == "clear"
    extra = [boxed(n, [box], [box, *far]) for n, box in enumerate(boxes)]
    assert found(extra, "failure/region-extra").state == "found" and found(extra, "failure/region-missed").state == "clear"


@pytest.mark.parametrize(
    ("code", "changed"),
    [
        ("failure/region-centre", lambda box: canonical(box.cx + 14, box.cy, box.w, box.h, box.theta)),
        ("failure/region-size", lambda box: canonical(box.cx, box.cy, box.w * 1.4, box.h * 1.4, box.theta)),
        ("failure/region-angle", lambda box: canonical(box.cx, box.cy, box.w, box.h, box.theta + 25)),
    ],
)
def test_errors_of_centre_size_and_angle_are_split(code: str, changed: Any) -> None:
    failures = {one.code: one for one in examine(Evidence(cases=tuple(boxed(n, [box], [changed(box)]) for n, box in enumerate(scattered(60)))))}
    split = ("failure/region-centre", "failure/region-size", "failure/region-angle")
    assert [failures[one].state == "found" for one in split] == [one == code for one in split]


@pytest.mark.parametrize(
    "name", ["x and y swapped", "width and height swapped", "angle turned the other way", "y counted from the bottom", "grid of 1000, read as 100"]
)
def test_boxes_in_another_convention_are_named(name: str) -> None:
    """Each of these readings undoes itself or has its inverse in the table: what is misread so is explained by it."""
    meant = CONVENTIONS[name]
    inverse = {"grid of 1000, read as 100": "grid of 100, read as 1000"}.get(name, name)
    misread = [meant(box, WIDTH, HEIGHT) for box in scattered(60)]
    kept = [(box, other) for box, other in zip(scattered(60), misread) if 0 < other.cx < WIDTH and 0 < other.cy < WIDTH]
    failure = found([boxed(n, [box], [other]) for n, (box, other) in enumerate(kept)], "failure/region-convention")
    assert failure.state == "found" and inverse in failure.note


def test_boxes_of_another_codec_are_named_and_broken_ones_are_format_errors() -> None:
    boxes = scattered(40)
    text = [
        f"<box>[[{(b.cx - b.w / 2) / WIDTH * 1000:.0f},{(b.cy - b.h / 2) / HEIGHT * 1000:.0f},{(b.cx + b.w / 2) / WIDTH * 1000:.0f},{(b.cy + b.h / 2) / HEIGHT * 1000:.0f}]]</box>"
        for b in boxes
    ]
    cases = [boxed(n, [replace(box, theta=0.0)], said) for n, (box, said) in enumerate(zip(boxes, text))]
    assert found(cases, "failure/format").state == "found", "no box was read"
    broken = [boxed(n, [box], "{12,13") for n, box in enumerate(boxes)]
    failure = found(broken, "failure/format")
    assert failure.state == "found" and failure.figures["answers with samples/format-error"].value == 1
    unsaid = [case(n, "is there a ship?", "yes", "ship", kind="presence") for n in range(40)]
    assert found(unsaid, "failure/format").worst[0].note == "neither yes nor no"


def test_problems_of_answers_are_read_by_code() -> None:
    problem = Problem(code="samples/format-error", place="answer", found="five numbers are a box")
    failure = found([*HEALTHY[160:], *(case(n, "where?", "there", "{1}", problems=(problem,)) for n in range(30))], "failure/format")
    assert failure.state == "found" and failure.worst[0].note == "five numbers are a box"


@pytest.mark.parametrize(
    ("text", "language"), [("图中有两座桥", "zh"), ("there are two bridges", "en"), ("yes", "en"), ("DJI", None), ("{1,2,3,4,5}", None), ("B", None), ("图中有 ship", "zh"), ("", None)]
)  # fmt: skip
def test_languages(text: str, language: str | None) -> None:
    assert language_of(text) == language


def test_answers_in_another_language() -> None:
    mixed = [case(n, "图中有什么?", "两艘船", "two ships in the harbor" if n % 4 == 0 else "两艘船") for n in range(40)]
    failure = found(mixed, "failure/language")
    assert failure.state == "found" and failure.rate.value == 0.25 and failure.figures["asked in zh"].n == 40
    translated = [case(n, "把“船”翻译成英文", "the ship", "the ship") for n in range(200)]
    assert found(translated, "failure/language").state == "clear", "the right answer says which language is wanted"


def test_text_decay_is_paired() -> None:
    rng = np.random.default_rng(0)
    sums = [(float(-rng.uniform(20, 60)), 20) for _ in range(60)]
    before = TextScores(stage="read", logps=tuple(sums), chosen=(True,) * 40)
    worse = TextScores(stage="instruct", logps=tuple((total - 6, count) for total, count in sums), chosen=(True,) * 20 + (False,) * 20)
    failure = found([], "failure/text-decay", text=(before, worse))
    assert failure.state == "found" and failure.rate.value == pytest.approx(math.exp(0.3) - 1)
    assert failure.rate.high - failure.rate.low < 1e-9, "every text lost the same: pairing leaves no doubt, whatever the texts are"
    assert failure.figures["choices lost"].value == 0.5
    assert found([], "failure/text-decay", text=(before, before)).state == "clear"
    assert found([], "failure/text-decay", text=(replace(before, logps=()), replace(worse, logps=()))).state == "found", "the choices alone"


def test_gaps_are_within_kinds() -> None:
    hard = [case(n, "how many?", "1", "1" if n % 2 else "2", kind="count", evaluation="photos") for n in range(60)]
    easy = [case(n, "what?", "a", "a", kind="what", evaluation="photos") for n in range(60)]
    same = [replace(one, evaluation="aerial") for one in (*hard, *easy[:5])]
    domains = {"photos": "generic", "aerial": "domain"}
    assert found([*hard, *easy, *same], "failure/generic-domain-gap", domains=domains).rate.value == pytest.approx(0), "another mixture of kinds is no gap"
    worse = [case(n, "what?", "a", "a" if n % 3 == 0 else "b", kind="what", evaluation="aerial") for n in range(100, 160)]
    failure = found([*easy, *worse], "failure/generic-domain-gap", domains=domains)
    assert failure.state == "found" and failure.rate.value == pytest.approx(2 / 3) and failure.count == 40
    assert found([*easy, *worse], "failure/generic-domain-gap").state == "not measured"


def test_seen_and_unseen_sets_and_tasks() -> None:
    seen = [case(n, "what?", "a", "a", kind="what", source="loveda") for n in range(40)]
    unseen = [case(100 + n, "what?", "a", "b", kind="what", source="rsvqa") for n in range(40)]
    assert found([*seen, *unseen], "failure/seen-unseen", seen_sources=frozenset(["loveda"])).state == "found"
    other = [replace(one, kind="count") for one in unseen]
    assert found([*seen, *other], "failure/seen-unseen-task", seen_kinds=frozenset(["what"])).state == "found"
    assert found([*seen, *unseen], "failure/seen-unseen", seen_sources=frozenset(["loveda", "rsvqa"])).state == "not measured"


def test_calibration() -> None:
    assert ece(np.array([0.95, 0.85, 0.25, 0.15]), np.array([1.0, 1, 0, 0]))[0] == pytest.approx((0.05 + 0.15 + 0.25 + 0.15) / 4)
    sure = [case(n, "is there a ship?", "yes" if n % 2 else "no", "yes", kind="presence", logps=(math.log(0.99),)) for n in range(200)]
    failure = found(sure, "failure/calibration")
    assert failure.state == "found" and failure.rate.value == pytest.approx(0.49)
    rng = np.random.default_rng(0)
    fair = [case(n, "is there a ship?", "yes" if rng.random() < 0.7 else "no", "yes", kind="presence", logps=(math.log(0.7),)) for n in range(200)]
    [strict] = examine(Evidence(cases=tuple(fair)), (FAILURE.parse({"kind": "calibration", "most": 0.0}),))
    assert strict.state != "found" and strict.rate.value > 0, "chance alone gives as much, and no limit makes a finding of that"
    assert found(sure[:10], "failure/calibration").state == "not measured"


def test_limits_can_be_said() -> None:
    cases = [case(n, "describe it", "a road", "a road " * 20 if n < 4 else "a road") for n in range(100)]
    assert found(cases, "failure/repetition").state != "found"
    strict = {one.code: one for one in examine(Evidence(cases=tuple(cases)), (FAILURE.parse({"kind": "repetition", "most": 0.01}),))}
    assert strict["failure/repetition"].state == "found"


def test_upright_boxes_count_as_boxes() -> None:
    reply = Turn(role="assistant", items=(Regions(regions=(Region(shape=Box(x0=10, y0=10, x1=50, y1=30)),)),))
    assert replace(case(0, "where?", (), "", kind="grounding"), reply=reply).wanted_boxes == (canonical(30, 20, 40, 20, 0),)


def test_the_ratio_of_a_gap_and_what_is_too_little_are_told() -> None:
    own = [case(n, "what?", "a", "a", kind="what", evaluation="photos") for n in range(40)]
    other = [case(n, "what?", "a", "a" if n % 2 else "b", kind="what", evaluation="aerial") for n in range(100, 140)]
    domains = {"photos": "generic", "aerial": "domain"}
    failure = found([*own, *other], "failure/generic-domain-gap", domains=domains)
    assert failure.figures["the second over the first"].value == pytest.approx(0.5) and failure.units["the second over the first"] == "times"
    few = found([*own, *other[:7]], "failure/generic-domain-gap", domains=domains)
    assert few.state == "not measured" and "40 of what is general and 7 of what is domain" in few.note
    rare = [*own, *other, *(case(n, "how many?", "1", "1", kind="count", evaluation=name) for n, name in ((200, "photos"), (201, "aerial")))]
    assert found(rare, "failure/generic-domain-gap", domains=domains).rate.low > 0, "a resample without the one question of a kind does not count it as wrong"


def test_a_few_that_are_all_alike_are_not_certain() -> None:
    assert share_by(["a", "b", "c"], [1, 1, 1], [1, 1, 1]) == share(3, 3) and share_by(["a"], [], []).n == 0
    lost = [boxed(n, [box], []) for n, box in enumerate(scattered(3))]
    failure = found(lost, "failure/region-missed")
    assert failure.rate.value == 1 and failure.rate.low == pytest.approx(share(3, 3).low) and failure.rate.n == 3
    together = share_by(["a"] * 10 + ["b"] * 10, [1] * 10 + [0] * 10, [1] * 20)
    assert (together.low, together.high) == (0, 1), "boxes of two pictures are two things, not twenty"


def test_what_a_line_is_about_is_marked_and_answers_are_counted_once() -> None:
    boxes = scattered(2)
    turned = [canonical(box.cx, box.cy, box.w, box.h, box.theta + angle) for box, angle in zip(boxes, (20, 30))]
    several = [boxed(n, boxes, turned) for n in range(12)]
    failure = found(several, "failure/region-angle")
    assert failure.state == "found" and failure.count == 12 and failure.rate.n == 24, "24 boxes of 12 answers"
    shown = failure.worst[0]
    assert shown.note == "angle off by 30 degrees" and shown.marked[0] == boxes[1] and failure.units == {"mean error of angle": "degrees"}
    extra = found([boxed(n, boxes[:1], boxes) for n in range(12)], "failure/region-extra")
    assert len(extra.worst[0].marked) == 1 and extra.worst[0].note == "1 of 2 of nothing"
    assert extra.figures["area outside of all right boxes"].value > 0.3


def test_probes_come_to_the_figures_of_pope() -> None:
    """TP 2, FP 2, TN 3, FN 1: accuracy 0.625, F1 0.5714, share of yes 0.5."""
    pairs = zip("YYNNYNYN", "YNYNYNNN", strict=True)
    cases = [
        case(n, "is it there?", "yes" if right == "Y" else "no", "yes" if said == "Y" else "no", kind="probe-popular") for n, (said, right) in enumerate(pairs)
    ]
    figures = found(cases, "failure/hallucination").figures
    told = [round(figures[name].value, 4) for name in ("right (yes and no)", "F1 of yes", "share of yes")]
    assert told == [0.625, 0.5714, 0.5]
