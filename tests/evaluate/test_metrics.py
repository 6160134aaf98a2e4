"""Golden values of published metrics, and what must hold for any text."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.evaluate.metrics import (
    caption_counts,
    caption_metrics,
    cider,
    commonest,
    distinct,
    diversity,
    ngrams,
    repetition,
    resamples,
    rouge_l,
    share,
    tokenize,
    wilson,
)

REFERENCES = [
    ["two planes are parked on the runway", "two white airplanes on the tarmac near a building"],
    ["a river runs through dense green forest", "a winding river with trees on both sides"],
    ["many small houses next to a wide road", "a residential area with a road"],
]
HYPOTHESES = ["two planes are parked near a building", "a river with many green trees", "a road next to many houses"]
SPLIT_REFERENCES = [[text.split() for text in several] for several in REFERENCES]
SPLIT_HYPOTHESES = [text.split() for text in HYPOTHESES]
LOOP = ["the", "road", "is", "next", "to", "the", "road", "is", "next", "to", "the", "road"]
words = st.lists(st.sampled_from(["a", "road", "river", "two", "ponds", "forest", "green"]), max_size=12)


def test_bleu_equals_sacrebleu() -> None:
    metrics = caption_counts(SPLIT_HYPOTHESES, SPLIT_REFERENCES).metrics()
    assert [metrics[f"bleu-{n}"][0] for n in (1, 2, 3, 4)] == pytest.approx([0.898796, 0.692569, 0.471790, 0.315935], abs=1e-6)


def test_rouge_l_equals_the_coco_evaluation() -> None:
    each = [rouge_l(h, r) for h, r in zip(SPLIT_HYPOTHESES, SPLIT_REFERENCES)]
    assert each == pytest.approx([0.571429, 0.557078, 0.333333], abs=1e-6)
    assert caption_counts(SPLIT_HYPOTHESES, SPLIT_REFERENCES).metrics()["rouge-l"][0] == pytest.approx(0.487280, abs=1e-6)


def test_cider_equals_the_coco_evaluation() -> None:
    each = cider(SPLIT_HYPOTHESES, SPLIT_REFERENCES)
    assert each == pytest.approx([3.344865, 1.460760, 1.764884], abs=1e-6)
    assert each.mean() == pytest.approx(2.190170, abs=1e-6)
    assert cider(SPLIT_HYPOTHESES[:1], SPLIT_REFERENCES[:1]) == pytest.approx([0.0])


def test_short_captions_pay_brevity_and_empty_ones_score_nothing() -> None:
    full = caption_counts([["a", "b", "c", "d"]], [[["a", "b", "c", "d"]]]).metrics()
    short = caption_counts([["a", "b"]], [[["a", "b", "c", "d"]]]).metrics()
    empty = caption_counts([[]], [[["a", "b"]]]).metrics()
    assert full["bleu-4"][0] == pytest.approx(1.0)
    assert short["bleu-1"][0] == pytest.approx(np.exp(1 - 4 / 2))
    assert all(value[0] == 0 for value in empty.values())


def test_closest_reference_is_the_shorter_of_two_equally_close() -> None:
    counts = caption_counts([["a"] * 4], [[["a"] * 5, ["a"] * 3, ["a"] * 9]])
    assert counts.closest.tolist() == [3]


@given(a=words, b=words)
def test_common_subsequence_agrees_with_the_textbook(a: list[str], b: list[str]) -> None:
    grid = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, left in enumerate(a):
        for j, right in enumerate(b):
            grid[i + 1, j + 1] = grid[i, j] + 1 if left == right else max(grid[i, j + 1], grid[i + 1, j])
    common = grid[-1, -1]
    expected = (1 + 1.44) * (common / len(a)) * (common / len(b)) / (common / len(b) + 1.44 * common / len(a)) if common else 0.0
    assert rouge_l(a, [b]) == pytest.approx(expected)


@given(corpus=st.lists(words.filter(bool), min_size=2, max_size=5))
def test_a_caption_equal_to_its_reference_is_never_beaten(corpus: list[list[str]]) -> None:
    references = [[tokens] for tokens in corpus]
    same, turned = caption_counts(corpus, references).metrics(), caption_counts(corpus[1:] + corpus[:1], references).metrics()
    assert all(same[name][0] >= turned[name][0] - 1e-12 for name in same)
    assert same["bleu-1"][0] == pytest.approx(1.0) and same["rouge-l"][0] == pytest.approx(1.0)


def test_repetition_and_distinct() -> None:
    assert [repetition(LOOP, n) for n in (1, 2, 3, 4)] == pytest.approx([0.5833, 0.5455, 0.5, 0.4444], abs=1e-4)
    assert diversity(LOOP) == pytest.approx(0.126263, abs=1e-6)
    corpus = [LOOP, ["two", "ships", "in", "the", "harbor"]]
    assert [distinct(corpus, n) for n in (1, 2, 3, 4)] == pytest.approx([0.5294, 0.6, 0.6154, 0.6364], abs=1e-4)
    assert repetition(["one"], 2) == 0 and distinct([], 1) == 0
    assert ngrams(["a", "b", "a", "b"], 2) == {("a", "b"): 2, ("b", "a"): 1}


def test_commonest_breaks_ties_by_the_alphabet() -> None:
    assert commonest(["two", "one", "two", "one", "nine"]) == ("one", 2)
    assert commonest([]) == ("", 0)


def test_tokens() -> None:
    assert tokenize("Two PLANES, parked (on the runway).") == ["two", "planes", "parked", "on", "the", "runway"]
    assert tokenize("It\u2019s a well-known 3.5 km road, isn't it?") == ["it", "'s", "a", "well-known", "3.5", "km", "road", "is", "n't", "it"]
    assert tokenize("\u56fe\u4e2d\u67092\u67b6\u98de\u673a\u3002") == ["\u56fe", "\u4e2d", "\u6709", "2", "\u67b6", "\u98de", "\u673a"]
    assert tokenize("\uff32\uff27\uff22 sensor's") == ["rgb", "sensor", "'s"]
    assert tokenize("'quoted'") == ["quoted"]


def test_wilson_against_published_values() -> None:
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)
    assert share(3, 4).value == 0.75 and share(0, 0).n == 0


@given(n=st.integers(1, 1000), data=st.data())
def test_wilson_holds_the_share_and_is_symmetric(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    low, high = wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    assert wilson(n - k, n) == pytest.approx((1 - high, 1 - low))


def test_resamples_keep_the_items_of_a_picture_together() -> None:
    times = resamples(["a", "b", "a", "c"], np.random.default_rng(0), 50)
    assert times.shape == (50, 4)
    assert (times[:, 0] == times[:, 2]).all() and (times[:, [0, 1, 3]].sum(axis=1) == 3).all()


def test_intervals_are_seeded_hold_the_value_and_are_fast() -> None:
    rng = np.random.default_rng(5)
    vocabulary = [f"w{i}" for i in range(60)]
    draw = lambda: [vocabulary[i] for i in rng.zipf(1.6, 12) % 60]  # noqa: E731
    hypotheses, references = [draw() for _ in range(600)], [[draw() for _ in range(5)] for _ in range(600)]
    start = time.thread_time()
    first = caption_metrics(hypotheses, references, range(600), np.random.default_rng(1))
    assert time.thread_time() - start < 10
    assert first == caption_metrics(hypotheses, references, range(600), np.random.default_rng(1))
    assert set(first) == {"bleu-1", "bleu-2", "bleu-3", "bleu-4", "rouge-l", "cider"}
    assert all(value.low < value.value < value.high and value.n == 600 for value in first.values())
