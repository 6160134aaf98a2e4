"""Rules of `data check`, each on rows that are made to break it and on rows that are not."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sightline.data.check.check_config import CheckConfig
from sightline.data.check.checking import Checked, check, quarantine
from sightline.data.check.label_rules import _one_apart
from sightline.data.check.rules import RULES
from sightline.data.check.text_rules import language, length
from sightline.data.engine import Local
from sightline.errors import Problem, Refused
from sightline.samples.pictures import describe
from sightline.samples.sample import Box, Origin, Picture, Polygon, Region, RotatedBox, Sample, Shape, Show, Text, Turn
from sightline.samples.store import Store

HERE = Local(workers=1)


def drawn(seed: int, size: tuple[int, int] = (160, 120), kind: str = "PNG") -> bytes:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    stream = io.BytesIO()
    small.resize(size, Image.Resampling.BICUBIC).save(stream, kind)
    return stream.getvalue()


def picture(seed: int, size: tuple[int, int] = (160, 120), name: str = "") -> Picture:
    return describe(drawn(seed, size), name or f"p{seed}.png", "test")


def sample(number: int, pairs: Sequence[tuple[str, str]] = (), shapes: Sequence[tuple[str, Shape]] = (), **others: Any) -> Sample:
    """A row about picture `number`; a pair with an empty question is a caption."""
    shown = others.pop("pictures", (picture(number),))
    turns: list[Turn] = []
    for question, answer in pairs:
        asked = (*([Show()] * (bool(shown) and not turns)), *([Text(text=question)] if question else []))
        turns += [Turn(role="user", items=asked), Turn(role="assistant", items=(Text(text=answer),))]
    regions = tuple(Region(label=label, shape=shape, attributes=others.get("marks", {})) for label, shape in shapes)
    origin = Origin(source="made", row=str(number), licence="CC0", maker=others.get("maker", "human"))
    attributes = others.get("attributes", {})
    return Sample(id=others.get("id", str(number)), pictures=shown, turns=tuple(turns), annotations=regions, attributes=attributes, origin=origin)


def stored(samples: Sequence[Sample], path: Path) -> Path:
    with Store.writer(path) as writer:
        for one in samples:
            writer.add(one)
    return path


def found(samples: Sequence[Sample], path: Path, rule: str, **fields: Any) -> list[str]:
    """What one rule says about rows."""
    checked = check([stored(samples, path / "store")], CheckConfig(rules=(rule,), **fields), engine=HERE)
    return [finding.found for finding in checked.findings]


SIDE = Box(x0=10, y0=10, x1=50, y1=40)
ROWS: list[tuple[str, Sample, str]] = [
    ("region-outside", sample(0, shapes=[("ship", Box(x0=200, y0=10, x1=250, y1=40))]), "1 of 1 in 160x120 px: ship 200 10 250 40"),
    ("region-past-edge", sample(0, shapes=[("ship", SIDE), ("ship", Box(x0=100, y0=10, x1=170, y1=40))]), "1 of 2 in 160x120 px"),
    ("region-past-edge", sample(0, shapes=[("ship", RotatedBox(cx=150, cy=60, w=20, h=10, theta=0.0))]), "ship 140 55 160 65"),
    ("region-degenerate", sample(0, shapes=[("ship", Box(x0=50, y0=10, x1=10, y1=40))]), "ship 10 10 50 40"),
    ("region-degenerate", sample(0, shapes=[("ship", Polygon(points=((1, 1), (5, 5))))]), "1 of 1"),
    ("region-aside", sample(0, shapes=[("ship", SIDE)], marks={"crowd": True}), "1 crowd"),
    ("region-aside", sample(0, shapes=[("DontCare", SIDE)]), "1 DontCare"),
    ("crowded-picture", sample(0, shapes=[("ship", SIDE)] * 101), "101 regions, over 100"),
    ("picture-size", sample(0, pictures=(picture(0, (400, 120)),)), "400x120: 3.33 times as long as wide"),
    ("odd-text", sample(0, [("", "An angle of 314.30? and more")]), "`?` where a sign was lost"),
    ("odd-text", sample(0, [("", "caf\u00c3\u00a9 by the sea")]), "UTF-8 read as Latin-1"),
    ("odd-text", sample(0, [("", "a lost \ufffd sign")]), "replacement characters"),
    ("odd-text", sample(0, [("", "see <br> below")]), "HTML"),
    ("lost-word", sample(0, [("How many  in the picture?", "two")]), "'How many  in the picture?'"),
    ("stray-white-space", sample(0, [("", "a pond ")]), "1 of 1 texts"),
    ("empty-text", sample(0, [("What?", " . ")]), "1 answers without a letter or digit"),
    ("caption-length", sample(0, [("", "pond")]), "1 words: 'pond'"),
    ("caption-length", sample(0, [("", "a b c " + "!?-#" * 9)]), "letters and digits"),
    ("language-switch", sample(0, [("How many ships?", "\u4e09\u8258\u8239")]), "answered in zh"),
    ("annotators-disagree", sample(0, [("A ship.", "true")], attributes={"answers": ["true", "false", "true"]}), "2 x 'true', 1 x 'false'"),
    ("answer-against-annotations", sample(0, [("How many ships are there?", "three")], [("ship", SIDE)]), "three; 1 regions of 'ship'"),
    ("answer-against-annotations", sample(0, [("is there a pond?", "yes")], [("ship", SIDE)]), "0 regions of 'pond'"),
    ("answer-against-annotations", sample(0, [("is there a ship?", "no")], [("ship", SIDE)]), "1 regions of 'ship'"),
]
TWICE = [("ship", SIDE), ("ship", Polygon(points=((10, 10), (50, 10), (50, 40)))), ("pond", SIDE)]
"""One ship as a box and as an outline."""
CLEAN = sample(0, [("How many ships are there?", "one"), ("Is there a pond?", "no")], [("ship", SIDE)])


@pytest.mark.parametrize(("rule", "row", "said"), ROWS)
def test_rows_that_break_a_rule(rule: str, row: Sample, said: str, tmp_path: Path) -> None:
    texts = found([row], tmp_path, rule)
    assert len(texts) == 1 and said in texts[0]


@pytest.mark.parametrize(("answer", "wrong"), [("one", False), ("two", False), ("none", True), ("three", True)])
def test_objects_may_be_annotated_in_several_kinds_of_shapes(answer: str, wrong: bool, tmp_path: Path) -> None:
    texts = found([sample(0, [("How many ships are there?", answer)], TWICE)], tmp_path, "answer-against-annotations")
    assert bool(texts) == wrong and all("2 regions of 'ship'" in text for text in texts)


@pytest.mark.parametrize("rule", [code for code, rule in RULES.items() if rule.look])
def test_a_clean_row_breaks_none(rule: str, tmp_path: Path) -> None:
    assert found([CLEAN], tmp_path, rule) == []


BOXES = [(number, Box(x0=4.0 * (number % 20), y0=3.0 * (number % 11), x1=4.0 * (number % 20) + 60, y1=3.0 * (number % 11) + 70)) for number in range(40)]
WRONG = {
    "x, y, width, height taken as corners": lambda box: (box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0),
    "corners taken as x, y, width, height": lambda box: (box.x0, box.y0, box.x1 + box.x0, box.y1 + box.y0),
    "y before x": lambda box: (box.y0, box.x0, box.y1, box.x1),
    "fractions 0..1 left as px": lambda box: (box.x0 / 160, box.y0 / 120, box.x1 / 160, box.y1 / 120),
    "0..1000 left as px": lambda box: (box.x0 / 0.16, box.y0 / 0.12, box.x1 / 0.16, box.y1 / 0.12),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_conventions_are_named(name: str, tmp_path: Path) -> None:
    """A source of 40 boxes in each wrong convention; the rule names which."""
    shapes = [Box(**dict(zip(("x0", "y0", "x1", "y1"), WRONG[name](box), strict=True))) for _, box in BOXES]
    texts = found([sample(number, shapes=[("ship", shape)], pictures=(picture(0),)) for number, shape in enumerate(shapes)], tmp_path, "wrong-convention")
    assert len(texts) == 1 and texts[0].startswith(name)


def test_right_convention_and_few_boxes_are_left_alone(tmp_path: Path) -> None:
    rows = [sample(number, shapes=[("ship", box)], pictures=(picture(0),)) for number, box in BOXES]
    assert found(rows, tmp_path / "right", "wrong-convention") == []
    few = [sample(number, shapes=[("ship", Box(x0=0.1, y0=0.1, x1=0.5, y1=0.5))], pictures=(picture(0),)) for number in range(5)]
    assert found(few, tmp_path / "few", "wrong-convention") == []


@pytest.mark.parametrize(("scale", "said"), [(1.0, True), (180 / np.pi, False)])
def test_radians_taken_as_degrees(scale: float, said: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    angles = rng.uniform(-np.pi / 2, np.pi / 2, 40) * scale
    rows = [sample(i, shapes=[("car", RotatedBox(cx=80, cy=60, w=30, h=10, theta=float(angle)))], pictures=(picture(0),)) for i, angle in enumerate(angles)]
    assert bool(found(rows, tmp_path, "wrong-convention")) == said


def test_label_variants(tmp_path: Path) -> None:
    labels = ["small-vehicle", "Small_Vehicle", "smallVehicles", "plane", "airplane", "pier"]
    texts = found([sample(i, shapes=[(label, SIDE)]) for i, label in enumerate(labels)], tmp_path, "label-variants")
    assert any("'Small_Vehicle'" in text and "'smallVehicles'" in text and "same words" in text for text in texts)
    assert any("'airplane'" in text and "names of plane" in text for text in texts)
    assert not any("pier" in text for text in texts)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("PRES", "PRSE", True),
        ("bridge", "brige", True),
        ("bridge", "bridgee", True),
        ("ship", "shop", True),
        ("tank 1", "tank 2", False),
        ("car", "boat", False),
        ("ab", "ab", False),
    ],
)
def test_one_letter_apart(a: str, b: str, same: bool) -> None:
    assert _one_apart(a, b) == same == _one_apart(b, a)


def test_conflicting_answers_and_duplicates(tmp_path: Path) -> None:
    """The same question about the same picture: another answer conflicts, the same one is a duplicate, another picture is neither."""
    same = (picture(0),)
    rows = [
        sample(0, [("Where?", "left")], pictures=same),
        sample(1, [("where? ", "right")], pictures=same),
        sample(2, [("Where?", "Left")], pictures=same),
        sample(3, [("Where?", "right")]),
    ]
    checked = check([stored(rows, tmp_path / "store")], CheckConfig(rules=("conflicting-answers", "duplicate-row")), engine=HERE)
    assert [(finding.rule, finding.row, finding.other) for finding in checked.findings] == [("duplicate-row", 2, 0), ("conflicting-answers", 1, 0)]
    assert not checked.passed and checked.counts == {"rows": 4, "clean": 2, "flagged": 2, "refused": 0}


def test_near_duplicates_under_rotation(tmp_path: Path) -> None:
    turned = io.BytesIO()
    Image.open(io.BytesIO(drawn(1))).rotate(90, expand=True).resize((96, 128)).save(turned, "JPEG", quality=75)
    rows = [sample(number) for number in range(4)] + [sample(9, pictures=(describe(turned.getvalue(), "turned.jpg", "test"),))]
    texts = found(rows, tmp_path / "near", "near-duplicate")
    assert len(texts) == 1 and texts[0].startswith("turned.jpg is nearly p1.png: turned or mirrored")
    assert found(rows, tmp_path / "upright", "near-duplicate", orientations=False) == []


def test_leaks(tmp_path: Path) -> None:
    """A picture on both sides of a split, and one that a benchmark has; the training row is named."""
    rows = [sample(0, attributes={"split": "train"}), sample(1, attributes={"split": "test"}, pictures=(picture(0),)), sample(2, attributes={"split": "train"})]
    benchmark = stored([sample(2, [("", "a caption of it")])], tmp_path / "benchmark")
    checked = check([stored(rows, tmp_path / "store")], against=[benchmark], engine=HERE)
    leaks = {code: [finding.row for finding in checked.by_rule[code]] for code in ("leak-between-splits", "leak-into-benchmark")}
    assert leaks == {"leak-between-splits": [0], "leak-into-benchmark": [2]}
    assert checked.counts["rows"] == 3


def test_text_leaks_without_pictures(tmp_path: Path) -> None:
    words = "Name the largest harbour of the country in one word please."
    mine, theirs = sample(0, [(words, "Rotterdam")], pictures=()), sample(1, [(words.upper(), "Rotterdam")], pictures=())
    checked = check([stored([mine], tmp_path / "a")], CheckConfig(rules=("leak-into-benchmark",)), against=[stored([theirs], tmp_path / "b")], engine=HERE)
    assert "is also in b" in checked.findings[0].found


def test_mixture(tmp_path: Path) -> None:
    domain = stored([sample(0, [("", "a pond in a field")], maker="model:x")], tmp_path / "domain")
    generic = stored([sample(number, [("", "a dog in a garden")]) for number in (5, 6)], tmp_path / "generic")
    checked = check([domain], generic=[generic], engine=HERE)
    said = {code: finding[0].found for code, finding in checked.by_rule.items()}
    assert said["generic-ratio"] == "1 domain : 2 generic rows, at least 1 : 1 asked"
    assert said["model-written"] == "100.0 % of 1 rows were written by a model"


def test_prior_and_monotony(tmp_path: Path) -> None:
    rows = [
        sample(number, [("is there a ship?", "yes"), ("Describe it.", f"There are {number} ships in the picture.")], pictures=(picture(number % 3),))
        for number in range(30)
    ]
    checked = check([stored(rows, tmp_path / "store")], engine=HERE)
    assert checked.by_rule["template-monotony"][0].figures["top"] > 0.9
    assert "'there are # ships in the picture'" in checked.by_rule["template-monotony"][0].found
    assert checked.by_rule["language-prior"][0].figures["by question"] > 0.5


class Measured:
    """Tokens by words; refuses rows about nothing."""

    key = "words"

    def __call__(self, sample: Sample) -> int:
        if "nothing" in sample.text(1):
            raise Refused(Problem(code="model/no-answer", place=sample.id, found="nothing to learn"))
        return len(sample.text(1).split())


def test_answers_that_would_be_cut(tmp_path: Path) -> None:
    rows = [sample(0, [("a?", "one two three")]), sample(1, [("b?", "one " * 9)]), sample(2, [("c?", "nothing")])]
    config = CheckConfig(rules=("cut-answer", "unfit-row"), max_tokens=5)
    checked = check([stored(rows, tmp_path / "store")], config, measure=Measured(), engine=HERE)
    assert [(finding.rule, finding.row, finding.found) for finding in checked.findings] == [
        ("cut-answer", 1, "9 tokens, at most 5"),
        ("unfit-row", 2, "model/no-answer: nothing to learn"),
    ]


def folder(path: Path) -> Path:
    """A LLaVA file with good rows, a missing picture, a truncated one, a tiny one, and rows that are no rows."""
    path.mkdir()
    for number in range(4):
        (path / f"{number}.png").write_bytes(drawn(number))
    (path / "cut.png").write_bytes(drawn(7)[:200])
    (path / "tiny.png").write_bytes(drawn(8, (4, 4)))
    names = ["0.png", "1.png", "gone.png", "cut.png", "tiny.png", "2.png"]
    said = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A field with a road."}]
    rows: list[object] = [{"id": str(number), "image": name, "conversations": said} for number, name in enumerate(names)]
    (path / "rows.json").write_text(json.dumps([*rows, 7, {"id": "x"}]), encoding="utf-8")
    return path


def test_rows_that_cannot_be_read(tmp_path: Path) -> None:
    """Each refused row is counted once, with the words of its reader."""
    checked = check([folder(tmp_path / "data")], engine=HERE)
    assert checked.counts == {"rows": 8, "clean": 3, "flagged": 0, "refused": 5}
    said = "\n".join(finding.found for finding in checked.by_rule["unreadable"])
    for code in ("samples/missing-picture", "samples/broken-picture", "data/picture-shape"):
        assert code in said
    assert not checked.passed


def test_workers_and_a_second_run_change_nothing(tmp_path: Path) -> None:
    data = folder(tmp_path / "data")
    plain = check([data], engine=HERE).record()
    assert check([data], engine=Local(workers=2)).record() == plain
    work = tmp_path / "work"
    work.mkdir()
    assert check([data], engine=HERE, work=work).record() == plain
    parts = sorted(work.iterdir())
    before = [part.stat().st_mtime_ns for part in parts]
    assert check([data], engine=HERE, work=work).record() == plain
    assert parts and [part.stat().st_mtime_ns for part in parts] == before


def test_a_changed_picture_is_looked_at_again(tmp_path: Path) -> None:
    data, work = folder(tmp_path / "data"), tmp_path / "work"
    work.mkdir()
    assert check([data], engine=HERE, work=work).counts["refused"] == 5
    (data / "gone.png").write_bytes(drawn(11))
    assert check([data], engine=HERE, work=work).counts["refused"] == 4


def test_quarantine_is_by_policy(tmp_path: Path) -> None:
    """Grave findings by default, named rules otherwise; every row is accounted for and the source is as it was."""
    same = (picture(0),)
    rows = [sample(0, [("Where?", "left")], pictures=same), sample(1, [("Where?", "right")], pictures=same), sample(2, [("", "pond ")])]
    store = stored(rows, tmp_path / "store")
    judged = quarantine(check([store], engine=HERE), tmp_path / "grave")
    assert judged.quarantined() == [(1, "check/conflicting-answers")]
    named = quarantine(check([store], CheckConfig(quarantine=("stray-white-space",)), engine=HERE), tmp_path / "named")
    assert named.quarantined() == [(2, "check/stray-white-space")]
    assert Store.open(store).counts() == {"kept": 3, "quarantined": 0, "refused": 0}
    again = check([tmp_path / "grave"], engine=HERE)
    assert again.counts["rows"] == 2 and again.sets[0].quarantined == 1


def test_quarantine_of_published_files(tmp_path: Path) -> None:
    checked = check([folder(tmp_path / "data")], CheckConfig(quarantine=("missing-licence", "template-monotony")), engine=HERE)
    store = quarantine(checked, tmp_path / "out")
    assert store.counts() == {"kept": 3, "quarantined": 0, "refused": 5}
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_quarantine_of_two_sets_is_refused(tmp_path: Path) -> None:
    stores = [stored([sample(number)], tmp_path / str(number)) for number in range(2)]
    with pytest.raises(Refused, match="one SRC"):
        quarantine(check(stores, engine=HERE), tmp_path / "out")


def test_unknown_rules_and_paths_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        check([tmp_path], CheckConfig(rules=("near-duplicates",), severity={"leak": "off"}), engine=HERE)
    assert [problem.fix for problem in refused.value.problems] == ["did you mean 'near-duplicate'?", "did you mean 'leak-between-splits'?"] or len(
        refused.value.problems
    ) == 2
    with pytest.raises(Refused) as refused:
        check([tmp_path / "a", tmp_path / "b"], engine=HERE)
    assert len(refused.value.problems) == 2


def test_severity_is_configurable(tmp_path: Path) -> None:
    store = stored([sample(0, [("", "pond ")])], tmp_path / "store")
    assert check([store], engine=HERE).passed
    assert not check([store], CheckConfig(severity={"stray-white-space": "refuse"}), engine=HERE).passed
    assert "stray-white-space" not in check([store], CheckConfig(severity={"stray-white-space": "off"}), engine=HERE).by_rule


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a pond", "latin"),
        ("\u4e00\u4e2a\u6c60\u5858", "zh"),
        ("\u6709 3 \u8258 ship \u5728\u6e2f\u53e3\u91cc", "zh"),
        ("12 !", ""),
        ("\u0440\u0435\u043a\u0430", "other"),
        ("caf\u00e9 \u4e2d", "latin"),
    ],
)
def test_language(text: str, name: str) -> None:
    assert language(text) == name


@given(st.text(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_text_has_a_language_and_a_length(text: str) -> None:
    assert language(text) in ("zh", "latin", "other", "") and length(text) >= 0


def everything(checked: Checked) -> set[int]:
    return {finding.row for finding in checked.findings if finding.row is not None}


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["", "Where?", "How many ships?"]), st.text("ab 1?.", max_size=8)), min_size=1, max_size=6))
@settings(max_examples=15, deadline=None)
def test_counts_always_add_up(tmp_path_factory: pytest.TempPathFactory, given_rows: list[tuple[int, str, str]]) -> None:
    rows = [replace(sample(number, [(question, answer + "x")]), id=str(place)) for place, (number, question, answer) in enumerate(given_rows)]
    checked = check([stored(rows, tmp_path_factory.mktemp("any") / "store")], engine=HERE)
    counts = checked.counts
    assert counts["rows"] == len(rows) == counts["clean"] + counts["flagged"] + counts["refused"]
    assert counts["flagged"] == len(everything(checked))
