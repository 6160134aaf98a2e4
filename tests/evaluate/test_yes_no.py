"""Yes/no answers are read as people mean them, or not at all; the published rules read them as published."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.evaluate import yes_no


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Yes", "yes"),
        (" **Yes**, there is a dog.", "yes"),
        ('"No."', "no"),
        ("NO", "no"),
        ("nope", "no"),
        ("y", "yes"),
        ("N.", "no"),
        ("no dogs are visible", "no"),
        ("There is no snowboard in the image.", "no"),
        ("There aren't any cars.", "no"),
        ("There is a snowboard.", "yes"),
        ("It isn't red.", "no"),
        ("It is.", "yes"),
        ("Correct", "yes"),
        ("Not really", "no"),
        ("I looked twice. The answer is no.", "no"),
        ("The dog sits on a bench, so yes.", "yes"),
        ("Looking closely: yes", "yes"),
        ("yes and no", None),
        ("Yes/No", None),
        ("not sure", None),
        ("I don't know", None),
        ("No doubt about it", None),
        ("It is red", None),
        ("none", None),
        ("nothing", None),
        ("", None),
        ("a dog on a bench", None),
        ("Is the answer yes? The answer is yes. The answer is no.", None),
        ("是", "yes"),
        ("是的，图中有一只狗。", "yes"),
        ("不是", "no"),
        ("不是的。", "no"),
        ("有", "yes"),
        ("有一只狗", "yes"),
        ("没有", "no"),
        ("没有。", "no"),
        ("图中没有狗", "no"),
        ("图片里有两条船", "yes"),
        ("这不是一座桥", "no"),
        ("对", "yes"),
        ("对的！", "yes"),
        ("不对", "no"),
        ("错", "no"),
        ("错误", "no"),
        ("没错", "yes"),
        ("正确", "yes"),
        ("不正确", "no"),
        ("否", "no"),
        ("答案是：否", "no"),
        ("不存在", "no"),
        ("无法确定", None),
        ("不确定", None),
        ("是不是桥？", None),
        ("有没有狗", None),
        ("是一只狗", None),
        ("这是一只狗", None),
    ],
)
def test_our_rule(answer: str, said: str | None) -> None:
    assert yes_no.tolerant(answer) == said


@pytest.mark.parametrize(
    ("rule", "answer", "said"),
    [
        ("mme", "Yes\n", "yes"),
        ("mme", "None", "no"),
        ("mme", "nope", "no"),
        ("mme", "I know", None),
        ("mme", "  yes", None),
        ("mme", "Y", None),
        ("mme", "yes and no", "yes"),
        ("pope", "NO", "yes"),
        ("pope", "nothing", "yes"),
        ("pope", "There is not. Yes", "no"),
        ("pope", "No, there is none", "no"),
        ("pope", "", "yes"),
        ("word", "Well, NO!", "no"),
        ("word", "yes or no", None),
        ("word", "nope", None),
    ],
)
def test_published_rules(rule: yes_no.Rule, answer: str, said: str | None) -> None:
    assert yes_no.RULES[rule](answer) == said


@given(st.text(max_size=60), st.sampled_from(sorted(yes_no.RULES)))
def test_any_text_is_read_as_one_of_three(text: str, rule: yes_no.Rule) -> None:
    assert yes_no.RULES[rule](text) in ("yes", "no", None)


@given(st.sampled_from(["yes", "no"]), st.sampled_from(["", ".", "!", ", it is so.", "\n"]), st.sampled_from(["", " ", '"', "- "]))
def test_a_plain_label_is_read_whatever_stands_around_it(label: str, after: str, before: str) -> None:
    assert yes_no.tolerant(before + label.title() + after) == label
