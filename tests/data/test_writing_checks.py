"""What written texts must hold, on toys and on published ones."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.data.labels import LabelTable
from sightline.data.writing_checks import fused_fault, pair_fault, parsed_pairs, repaired_fault, repeats, strangers, tells_source, tidy, unfit
from sightline.samples.sample import Box, Region

TABLE = LabelTable.load()
BOX = Box(x0=0, y0=0, x1=4, y1=4)
KNOWN = [Region(label="ship", shape=BOX), Region(label="ship", shape=BOX), Region(label="harbor", shape=BOX)]


def block(*texts: str) -> str:
    names = ("Question", "Answer")
    return "\n===\n".join(f"{names[number % 2]}:\n{text}" for number, text in enumerate(texts))


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        (block("a?", "b", "c?", "d"), (("a?", "b"), ("c?", "d"))),
        ("===\n" + block("a?", "two\nlines") + "\n===\n", (("a?", "two\nlines"),)),
        ("问题: 有什么?\n===\n回答: 有船。", (("有什么?", "有船。"),)),
        (block("a?", "b", "c?"), None),
        (block("a?", ""), None),
        ("Answer: b\n===\nQuestion: a", None),
        ("Question: a\nAnswer: b", None),
        (block("a?", "b\nQuestion: c"), None),
        ("Here you are.\n===\n" + block("a?", "b"), None),
        ("", None),
    ],
)
def test_blocks_are_read_strictly(text: str, pairs: object) -> None:
    assert parsed_pairs(text) == pairs


WORDS = st.text(alphabet="abc d?.图", min_size=1).map(str.strip).filter(bool)


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_blocks_that_are_written_are_read_back(pairs: list[tuple[str, str]]) -> None:
    assert parsed_pairs(block(*(text for pair in pairs for text in pair))) == tuple(pairs)


@given(st.text(max_size=300))
def test_any_text_is_judged(text: str) -> None:
    judged = [unfit(text), fused_fault("a", "b", text), repaired_fault("a", text, TABLE), pair_fault(text, text, KNOWN, TABLE)]
    assert {type(reason) for reason in judged} <= {str, type(None)} and isinstance(parsed_pairs(text), tuple | None)
    assert tidy(text).encode().decode() == tidy(text)


def test_published_examples_are_read(shared_data: Path) -> None:
    folder = shared_data / "text" / "llava" / "prompts"
    counts = {path.parent.name + path.name[:3]: len(parsed_pairs(tidy(path.read_text(encoding="utf-8"))) or ()) for path in sorted(folder.glob("*/*_conv.txt"))}
    assert counts == {
        "complex_reasoning000": 1,
        "complex_reasoning001": 1,
        "complex_reasoning002": 1,
        "conversation000": 4,
        "conversation001": 4,
        "detail_description000": 0,
        "detail_description001": 0,
        "detail_description002": 0,
    }


def test_published_answers_are_fit(shared_data: Path) -> None:
    answers = [json.loads(line)["text"] for line in (shared_data / "text" / "llava" / "qa90_gpt4_answer.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(answers) == 90 and [text for text in answers if unfit(text) or tells_source(text)] == []


def test_published_fusions_pass_nine_times_of_ten(shared_data: Path) -> None:
    rows = json.loads((shared_data / "text" / "capsfusion_example_data.json").read_text(encoding="utf-8"))
    faults = Counter(fused_fault(row["laion_2b"], row["laion_coco"], row["capsfuion_official"]) for row in rows)
    assert faults.total() == 1500 and faults[None] >= 1350 and set(faults) == {None, "names", "numbers", "short"}
    assert all(fused_fault(row["laion_2b"], row["laion_coco"], "") == "empty" for row in rows[:20])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Ann's Bakery in Oslo sells cakes on a table.", None),
        ("Ann's Bakery in Bergen sells cakes on a table.", "names"),
        ("Ann's Bakery in Oslo sells 12 cakes on a table.", "numbers"),
        ("Sentence 1: Ann's Bakery in Oslo sells cakes.", "echo"),
        ("Cakes.", "short"),
        ("cakes on a table in Oslo " + "and more of the very fine things " * 13, "repetition"),
        (" ".join(f"{chr(97 + number % 26)}{chr(97 + number // 26)}" for number in range(81)), "long"),
        ("I'm sorry, I cannot see the picture.", "self"),
        (" ", "empty"),
        ("cakes \x07 on a table in Oslo at Ann's", "characters"),
    ],
)
def test_fused_captions(text: str, fault: str | None) -> None:
    assert fused_fault("ann's BAKERY oslo cakes 3 for 2", "Some cakes on a table.", text) == fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Two ships lie in a harbor.", None),
        ("Two ships and a bridge lie in a harbor.", "labels"),
        ("Three ships lie in a harbor.", "numbers"),
        ("Two ships lie in no harbor.", "polarity"),
        ("Two ships lie in a harbor. Two ships lie in a harbor.", "repetition"),
        ("Two ships lie in a harbor, which is a fine thing for them and everybody else who lives near by.", "long"),
    ],
)
def test_repaired_texts(text: str, fault: str | None) -> None:
    before = "Two ships lie in a harbor. Two ships lie in a harbor. Two"
    assert repaired_fault(before, text, TABLE) == fault
    assert repaired_fault(before, "They lie in a harbor.", TABLE, whole=True) == "numbers" and repaired_fault(before, "They lie in a harbor.", TABLE) is None


def test_labels_are_compared_with_what_is_known() -> None:
    assert strangers("A ship beside a bridge in the center of the background; there is no airplane.", KNOWN, TABLE) == {"bridge"}
    assert strangers("港口里有船,没有飞机,远处有一座立交桥。", KNOWN, TABLE) == {"overpass"}


@pytest.mark.parametrize(
    ("question", "answer", "fault"),
    [
        ("How many ships are there?", "There are two ships.", None),
        ("How many ships are there?", "There are three ships.", "count"),
        ("Is there a bridge?", "No, there is no bridge.", None),
        ("Is there a bridge?", "Yes.", "labels"),
        ("Is there a ship?", "No.", "denial"),
        ("Is there a ship?", "There are no ships.", "denial"),
        ("What lies in the harbor?", "Planes.", "labels"),
        ("图中有几艘舰船?", "有三艘舰船。", "count"),
        ("图中有飞机吗?", "没有飞机。", None),
    ],
)
def test_questions_are_compared_with_annotations(question: str, answer: str, fault: str | None) -> None:
    assert pair_fault(question, answer, KNOWN, TABLE) == fault
    assert pair_fault(question, answer, [], TABLE) is None


def test_replies_are_tidied() -> None:
    assert tidy('<think>hm, 3?</think>\n"It is a ship." ') == "It is a ship." and tidy('"A" and "B"') == '"A" and "B"' and tidy("a\ud800") == "a\ufffd"
    assert unfit("a\ufffd") == "characters" and repeats("very very very good") and not repeats("ships, ships and ships")
