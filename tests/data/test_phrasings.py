"""The table of wordings: whole in both languages, varied enough, and refused with every fault when it is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from sightline.data.labels import LabelTable
from sightline.data.synthesis.phrasings import FORMS, LANGUAGES, TABLE, Phrasings, Words, filled
from sightline.errors import Refused
from sightline.samples.sample import Box, Region, Regions, Text

WORDS = {language: Words(LabelTable.load(), language) for language in LANGUAGES}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", FORMS)
def test_every_kind_has_ten_to_fifteen_different_questions_in_both_languages(language: str, kind: str) -> None:
    asked = Phrasings.load().all(language, kind, "ask")
    assert 10 <= len(asked) <= 15
    assert len(set(asked)) == len(asked)


def test_chinese_wordings_are_chinese_with_full_width_marks() -> None:
    for kind, forms in FORMS.items():
        for form in forms:
            for wording in Phrasings.load().all("zh", kind, form):
                assert not re.search(r"[\u4e00-\u9fff][,?!;:]", wording), wording
                assert not re.search(r"[A-Za-z]{2,}", re.sub(r"{\w+}", "", wording)), wording


def test_slots_hold_text_or_regions() -> None:
    box = Regions(regions=(Region(shape=Box(x0=0, y0=0, x1=1, y1=1)),))
    assert filled("What is at {box}, a {label}?", {"box": box, "label": "car"}) == (Text(text="What is at "), box, Text(text=", a car?"))
    assert filled("{boxes}", {"boxes": box}) == (box,)
    assert filled("{text}", {"text": "{boxes} {{"}) == (Text(text="{boxes} {{"),)  # what stands in a slot is text


def test_faults_are_all_named(tmp_path: Path) -> None:
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    table["en"]["naming"]["ask"] = ["What is it?", "What is at {place}?", "At {box!r}?", "{"]
    table["en"]["list"]["say"] = []
    table["en"]["riddle"] = {}
    del table["zh"]["counting"]["cue"]
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(table, allow_unicode=True), encoding="utf-8")
    with pytest.raises(Refused) as refused:
        Phrasings.load(file)
    said = "\n".join(map(str, refused.value.problems))
    assert len(refused.value.problems) == 7
    for part in ("'What is it?' lacks {box}", "{place}", "{box!r}", "riddle", "en.list.say", "zh.counting", "close the brace"):
        assert part in said, part


@pytest.mark.parametrize("text", ["[1, 2]", "en: {", "\x00"])
def test_what_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(Refused, match="data/phrasings"):
        Phrasings.load(file)


def test_labels_have_articles_plurals_and_lists_as_the_language_has_them() -> None:
    english, chinese = WORDS["en"], WORDS["zh"]
    assert english.slots("storage_tank") == {"label": "storage tank", "a_label": "a storage tank", "labels": "storage tanks"}
    assert english.slots("OtherVehicle")["a_label"] == "some other vehicle"
    assert english.slots("Person")["labels"] == "people"
    assert english.slots("water")["a_label"] == "water"
    assert english.things(["car", "ship", "water"], {"car": 1, "ship": 3}) == "one car, three ships and water"
    assert chinese.things(["car", "water"], {"car": 2}) == "汽车、水体"
    assert (english.counted("person", 0), english.counted("car", 12), chinese.counted("car", 3)) == ("no people", "12 cars", "3")
