"""The traps that the real data sets document, and the rule of `data check` that finds each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest

from sightline.data.check.check_config import CheckConfig
from sightline.data.check.checking import Checked, check
from sightline.data.check.row_facts import Finding

Figure = Callable[[Checked, Sequence[Finding]], object]


def rows(checked: Checked, found: Sequence[Finding]) -> int:
    """Rows that findings name."""
    return len({finding.row for finding in found if finding.row is not None})


def figure(*names: str) -> Figure:
    """Figures of the finding about the whole source."""

    def read(checked: Checked, found: Sequence[Finding]) -> object:
        values = [round(found[0].figures[name], 4) for name in names]
        return values[0] if len(values) == 1 else tuple(values)

    return read


def total(name: str) -> Figure:
    """Sum of a figure over all findings."""
    return lambda checked, found: sum(finding.figures.get(name, 0) for finding in found)


def pictures(checked: Checked, found: Sequence[Finding]) -> int:
    """Different pictures of the rows that findings name."""
    return len({picture.hash for finding in found if finding.row is not None for picture in checked.survey.rows[finding.row].pictures})


def alone(checked: Checked, found: Sequence[Finding]) -> int:
    """Rows of which all captions are one."""
    return len([finding for finding in found if finding.figures["different"] == 1])


def said(words: str) -> Figure:
    """Whether a finding says so."""
    return lambda checked, found: any(words in finding.found for finding in found)


def once(name: str) -> Figure:
    """Figure of the finding of each picture, summed over pictures: questions repeat what is known of their picture."""

    def read(checked: Checked, found: Sequence[Finding]) -> float:
        first = {checked.survey.rows[finding.row or 0].pictures[0].hash: finding for finding in reversed(found)}
        return sum(finding.figures.get(name, 0) for finding in first.values())

    return read


TRAPS: list[tuple[str, str, str, Figure, object]] = [
    # set, trap, rule, figure, value
    ("coco_mini", "49 captions begin or end with white space", "stray-white-space", total("texts"), 49),
    ("coco_mini", "5 crowd rows mark a group, not one thing", "region-aside", total("crowd"), 5),
    ("coco_mini", "283 of 685 instances are smaller than 32x32", "tiny-objects", figure("tiny", "objects"), (283, 685)),
    ("coco_mini", "36 picture sizes, sides 333 to 640", "mixed-sizes", figure("sizes", "least", "most"), (36, 333, 640)),
    ("coco_mini", "portrait and landscape both occur", "mixed-sizes", said("56 wide, 18 upright"), True),
    ("dota", "answers and boxes disagree six times", "answer-against-annotations", rows, 6),
    ("dota", "548 ships against 531 boxes", "answer-against-annotations", said("548; 531 regions of 'ship'"), True),
    ("dota", "boxes of P0706 reach the right or lower edge", "region-past-edge", pictures, 1),
    ("dota", "P0706 has hundreds of ships", "crowded-picture", once("regions"), 536),
    ("dota", "19 difficult boxes", "region-aside", once("difficult"), 19),
    ("dota", "class words have a hyphen in boxes and a space in questions", "label-variants", said("'large-vehicle' is 'large vehicle'"), True),
    ("dronedeploy", "chips of one scene are neighbours", "neighbouring-pictures", figure("pictures", "scenes"), (78, 1)),
    ("dronedeploy", "ground has 73.69 % of the pixels", "class-imbalance", figure("top"), 0.7369),
    ("epfl_roads", "one fifth of the pixels is road", "class-imbalance", said("'background' has 80.4 % of the area"), True),
    ("loveda", "agriculture is two thirds of all pixels", "class-imbalance", figure("top"), 0.6662),
    ("levir_cd", "one pair without change", "no-annotation", rows, 1),
    ("levir_cd", "two pairs are crops of one picture", "neighbouring-pictures", said("test_2 (2)"), True),
    ("hit_uav", "3 DontCare regions are no objects", "region-aside", rows, 19),
    ("hit_uav", "27 truncated, 1 difficult", "region-aside", total("truncated"), 27),
    ("hit_uav", "grey thermal pictures decode as colour", "grey-picture", rows, 50),
    ("hit_uav", "persons are tiny", "tiny-objects", figure("objects"), 507),
    ("hit_uav", "9 other vehicles against 208 bicycles", "class-imbalance", said("'OtherVehicle' 9 times"), True),
    ("flickr8k", "9 pictures are in none of the lists", "no-split", pictures, 9),
    ("flickr8k", "3,611 captions end in a detached full stop, 389 in none", "mixed-writing", figure("a detached full stop", "none"), (3611, 389)),
    ("flickr8k", "3,741 captions begin with a capital", "mixed-writing", figure("capitals"), 3741),
    ("flickr8k", "mixed sizes, sides from 66", "mixed-sizes", figure("sizes", "least", "most"), (195, 66, 500)),
    ("flickr8k", "3,998 and 3,601 different captions of 4,000 each", "repeated-text", figure("different", "texts"), (7599, 8000)),
    ("flickr8k", "Chinese captions repeat: 711 pictures of 800 have five different ones", "repeated-caption", rows, 89),
    ("flickr8k", "two languages", "language-mix", said("zh"), True),
    ("flickr8k", "the most extreme shape is 3.03 to 1", "picture-size", said("side under 100 px"), True),
    ("nlvr", "alpha channel", "picture-mode", rows, 300),
    ("nlvr", "four times as wide as high", "picture-size", said("4.00 times as long as wide"), True),
    ("nlvr", "a sentence stands with several pictures", "repeated-text", figure("different", "texts"), (195, 300)),
    ("nlvr", "76 records with a vote that differs", "annotators-disagree", rows, 76),
    ("nlvr", "always `true` gives 53.0 %", "language-prior", figure("majority"), 0.53),
    ("rsicd", "1,151 pictures have one caption five times", "repeated-caption", alone, 1151),
    ("rsicd", "3,261 different captions of 10,530", "repeated-text", figure("different", "texts"), (3261, 10530)),
    ("rsicd", "the theme of every playground is called playfields", "name-against-answer", rows, 70),
    ("rsicd", "79 % of the captions contain their class name", "caption-names-class", said("78.6 % of 10530"), True),
    ("rsicd", "industrial_203 and industrial_205 are one file with other captions", "duplicate-picture", said("industrial_203.jpg"), True),
    ("rsicd", "port_183 and port_248 are the same place", "near-duplicate", said("port_248.jpg is nearly port_183.jpg"), True),
    ("rsicd", "beach_68 and beach_88 only look alike", "near-duplicate", said("beach"), False),
    ("sroie", "106.jpg is 937x3556", "picture-size", said("937x3556: 3.80 times as long as wide"), True),
    ("sroie", "up to 153 text lines", "crowded-picture", figure("regions"), 153),
    ("ucm_captions", "six pictures with the same captions", "repeated-text", said("'There is a piece of farmland .' with 6"), True),
    ("vqa_rad", "all 51 pictures of the test set are in the training set", "leak-between-splits", pictures, 51),
    ("vqa_rad", "`Yes` and `yes` both occur", "answer-variants", said("'Yes' 176 / 'yes' 95"), True),
    ("vqa_rad", "`PRSE` is a misspelling", "label-variants", said("'PRSE' 2: one letter apart"), True),
    ("vqa_rad", "3 questions end in a blank", "read-with-loss", said("stray-blank"), True),
    ("serve_examples", "half of the rows are Chinese", "language-mix", said("50.0 % zh"), True),
    ("aid", "no duplicates", "near-duplicate", rows, 0),
]


@cache
def checked(folder: Path) -> Checked:
    """One check of each set for all its traps."""
    return check([folder])


@pytest.mark.parametrize(("name", "trap", "rule", "read", "value"), TRAPS, ids=[f"{name}: {trap}" for name, trap, *_ in TRAPS])
def test_traps_are_found(name: str, trap: str, rule: str, read: Figure, value: object, shared_data: Path) -> None:
    found = checked(shared_data / name)
    assert read(found, found.by_rule.get(rule, [])) == value


@pytest.mark.parametrize("name", sorted({name for name, *_ in TRAPS}))
def test_counts_add_up(name: str, shared_data: Path) -> None:
    counts = checked(shared_data / name).counts
    assert counts["rows"] == counts["clean"] + counts["flagged"] + counts["refused"] > 0
    assert counts["refused"] == 0


def test_questions_about_drawn_shapes(shared_data: Path) -> None:
    """Every picture of easy-VQA is synthetic; its floors are those that its README states."""
    found = check([shared_data / "easy_vqa"], CheckConfig(rules=("language-prior", "negated-questions", "picture-size"))).by_rule
    prior = found["language-prior"][0].figures
    assert (round(prior["majority"], 4), round(prior["by question"], 4), prior["texts"]) == (0.3693, 0.6731, 107)
    assert found["negated-questions"][0].figures["not"] == 4007
    assert len({finding.found for finding in found["picture-size"]}) == 1


def test_two_sets_that_share_no_picture(shared_data: Path) -> None:
    """AID and RSICD come from the same maps and share no picture; some of both are nearly uniform."""
    found = check([shared_data / "aid"], CheckConfig(rules=("leak-into-benchmark",)), against=[shared_data / "rsicd"])
    assert found.by_rule == {}


def test_a_set_against_itself(shared_data: Path) -> None:
    """Every row is in its own benchmark."""
    found = check([shared_data / "vqa_rad"], CheckConfig(rules=("leak-into-benchmark",)), against=[shared_data / "vqa_rad"])
    assert rows(found, found.by_rule["leak-into-benchmark"]) == found.counts["rows"] == 880
