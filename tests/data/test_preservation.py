"""Rewritten answers that may stand for the answer, and those that may not."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.data.labels import LabelTable
from sightline.data.preservation import boxes, denied, letters, mentions, numbers, preserved

TABLE = LabelTable.load()
DIGITS, SECTIONS = "零一二三四五六七八九", ("", "万", "亿")
ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def han(value: int) -> str:
    """Chinese numerals, as schools teach them: 一万零五十."""
    if value == 0:
        return "零"
    said, place = "", 0
    digits = str(value)
    for index, digit in enumerate(digits):
        place = len(digits) - 1 - index
        if digit != "0":
            said += DIGITS[int(digit)] + ("", "十", "百", "千")[place % 4]
        elif said and not said.endswith("零") and any(later != "0" for later in digits[index : len(digits) - place // 4 * 4]):
            said += "零"
        if place % 4 == 0 and place and digits[max(0, index - 3) : index + 1].strip("0"):
            said += SECTIONS[place // 4]
            if digits[index + 1 : index + 2] == "0" and digits[index + 1 :].strip("0"):
                said += "零"
    return said


def english(value: int) -> str:
    if value < 20:
        return ONES[value]
    if value < 100:
        return TENS[value // 10] + (f"-{ONES[value % 10]}" if value % 10 else "")
    unit, name = (100, "hundred") if value < 1000 else (1000, "thousand")
    return f"{english(value // unit)} {name}" + (f" and {english(value % unit)}" if value % unit else "")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("共有二十五栋建筑", [25]),
        ("一百零五", [105]),
        ("两条船", [2]),
        ("一百五", [150]),
        ("二〇二四年", [2024]),
        ("3万人, 1.5亿, 12,500 ships", [30000, 150000000, 12500]),
        ("一些船一起停在四周, 十分整齐, 呈三角形, 第一排", []),
        ("有一座桥和十艘船", [1, 10]),
        ("twenty-five cars, two hundred and five ships, two or three planes", [25, 205, 2, 3]),
        ("three thousand two hundred", [3200]),
        ("no one, the other one, one of them, 2nd row", []),
        ("3-5 m, -4 degrees, 2.50", [3, 5, -4, 2.5]),
        ("１２ 艘", [12]),
        ("", []),
    ],
)
def test_numbers_in_both_languages(text: str, found: list[float]) -> None:
    assert numbers(text) == Counter(Decimal(str(value)) for value in found)


@given(st.integers(0, 10**10))
def test_chinese_numerals_are_read_back(value: int) -> None:
    assert numbers(f"共有{han(value)}个") == Counter([Decimal(value)])


@given(st.lists(st.integers(0, 999_999), min_size=1, max_size=4))
def test_english_number_words_are_read_back(values: list[int]) -> None:
    assert numbers(", ".join(map(english, values))) == Counter(map(Decimal, values))


@given(st.text(max_size=200), st.text(max_size=200), st.text(max_size=200))
def test_any_text_is_judged(question: str, answer: str, rewritten: str) -> None:
    assert preserved(question, answer, rewritten, TABLE) in (None, "length", "boxes", "letters", "numbers", "labels", "polarity", "order", "words")


@given(st.text(min_size=1, max_size=60).filter(str.strip))
def test_an_answer_stands_for_itself(answer: str) -> None:
    assert preserved("", answer, answer, TABLE) is None


BRIDGES = "图中有几座桥"
WATER = "图中包含水体吗?"
DENIAL = "不,图中不包含水体,但包含建筑"


@pytest.mark.parametrize(
    ("question", "answer", "rewritten", "reason"),
    [
        (BRIDGES, "3", "在图片中,你可以清晰地看到有三座桥。", None),
        ("图中篮球场的旁边是什么?", "足球场", "篮球场的旁边是一个足球场。", None),
        (BRIDGES, "3", "图中有三座桥和一条船。", "numbers"),
        (WATER, DENIAL, "是的,图中包含水体和建筑。", "polarity"),
        (WATER, DENIAL, "图中没有水体,不过可以看到建筑。", None),
        (WATER, DENIAL, "图中没有建筑,不过可以看到水体。", "polarity"),
        ("{桥}在哪里?", "桥在[375,120,400,180]", "桥位于[370,120,400,180]。", "boxes"),
        ("{桥}在哪里?", "桥在[375,120,400,180]", "桥位于图中的[375, 120, 400, 180]处。", None),
        ("图中有什么?", "道路", "图中可以看到道路,旁边有建筑。", "labels"),
        ("图中有什么?", "道路", "图中可以看到一条公路。", None),
        ("图中有什么?", "船", "图中可以看到一座桥。", "labels"),
        ("屋顶是什么颜色?", "红色", "屋顶是蓝色的。", "words"),
        ("屋顶是什么颜色?", "红色", "屋顶是鲜艳的红色。", None),
        ("图中有什么?", "三座桥和两条船", "图中有两座桥和三条船。", "order"),
        ("图中有什么?", "三座桥和两条船", "图中可以看到三座桥,还有两条船。", None),
        (BRIDGES, "0", "图中没有桥。", None),
        (BRIDGES, "0", "图中有桥。", "polarity"),
        ("图中有桥吗?", "有", "图中没有桥。", "polarity"),
        ("图中有什么?", "不透水面", "图中是一片不透水面。", None),
        ("这里是哪里?", "十字路口", "这里是一个繁忙的十字路口。", None),
        ("How many ships are there?", "3", "There are three ships in this picture.", None),
        ("How many ships are there?", "3", "There are three ships and one plane.", "numbers"),
        ("How many ships are there?", "3", "There are three planes.", "labels"),
        ("Is there a car?", "no", "The picture does not show a car.", None),
        ("Is there a car?", "no", "Yes, there is a car.", "polarity"),
        ("Is there a car?", "yes", "A car can be seen in the center of the picture.", None),
        ("Is there a car?", "yes", "No car can be seen.", "polarity"),
        ("Where is the car?", "left", "The car is on the right.", "words"),
        ("Where is the car?", "left", "The car is on the left of the picture.", None),
        ("Which? (A) ship (B) car", "B", "The answer is B.", None),
        ("Which? (A) ship (B) car", "B", "The answer is A.", "letters"),
        ("Which? (A) ship (B) car", "A. ship", "Option (A) is right: it is a ship.", None),
        ("What is it?", "a ship", "", "length"),
        ("What is it?", "a ship", "It is a ship. " * 10, "length"),
        ("Where are they?", "ship [region-1] and car [region-2]", "There is a ship at [region-1] and a car at [region-2].", None),
        ("Where are they?", "ship [region-1] and car [region-2]", "There is a car at [region-1] and a ship at [region-2].", "order"),
        ("Where are they?", "ship [region-1] and car [region-2]", "There is a ship at [region-1] and a car.", "boxes"),
    ],
)
def test_what_is_preserved(question: str, answer: str, rewritten: str, reason: str | None) -> None:
    assert preserved(question, answer, rewritten, TABLE) == reason


def test_boxes_letters_and_labels_are_found_where_they_stand() -> None:
    assert boxes("at {<12><3><40><99>} and [[1, 2], [3, 4]] or (0.1,0.25); <loc_12>") == ["{<12><3><40><99>}", "[[1,2],[3,4]]", "(0.1,0.25)", "<loc_12>"]
    assert letters("A ship") == set() and letters("(C)") == {"C"} and letters("选B") == {"B"} and letters(" D ") == {"D"}
    assert [label for _, _, label in mentions("Large vehicles beside buses; 桥边的停车场, 鸟瞰", TABLE)] == ["large-vehicle", "bus", "bridge", "parking"]
    assert denied("There is no water, but buildings can be seen.", TABLE) == {"water"}
