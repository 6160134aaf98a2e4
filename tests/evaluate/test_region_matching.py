"""Boxes paired one to one by rotated IoU, and the errors of a pair."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.evaluate.region_matching import errors, match, mean_iou, overlap
from sightline.samples.geometry import canonical
from sightline.samples.sample import RotatedBox

TRUTHS = [canonical(100, 100, 40, 20, 0), canonical(200, 100, 40, 20, 45), canonical(300, 300, 60, 10, -30)]
FOUND = [canonical(102, 101, 40, 20, 5), canonical(200, 100, 40, 20, 45), canonical(205, 104, 40, 20, 40), canonical(50, 50, 10, 10, 0)]

number = st.floats(1, 200, allow_nan=False)
boxes = st.lists(st.builds(canonical, number, number, st.floats(5, 60), st.floats(5, 60), st.floats(-90, 89)), max_size=5)


def test_published_boxes_are_paired_and_a_double_is_extra() -> None:
    """IoU of the pairs .8171 and 1.0; .6781 is of a second box on the same truth."""
    found = match(TRUTHS, FOUND)
    assert [(pair.truth, pair.found, round(pair.iou, 4)) for pair in found.pairs] == [(0, 0, 0.8171), (1, 1, 1.0)]
    assert (found.missed, found.extra) == ((2,), (2, 3))
    assert overlap(TRUTHS[1], FOUND[2]) == pytest.approx(0.6781, abs=5e-5)
    assert mean_iou(TRUTHS, FOUND) == pytest.approx(1.8171 / 4, abs=5e-5), "what is missed and what is extra count 0"
    assert mean_iou([], []) == 1 and mean_iou(TRUTHS, []) == 0


def test_pairs_are_the_best_together_not_one_by_one() -> None:
    truths = [canonical(10, 10, 10, 10, 0), canonical(16, 10, 10, 10, 0)]
    found = [canonical(13.5, 10, 10, 10, 0), canonical(19, 10, 10, 10, 0)]
    assert overlap(truths[1], found[0]) > overlap(truths[1], found[1]) > 0, "greedy would take the first found box for the second truth"
    assert [(pair.truth, pair.found) for pair in match(truths, found).pairs] == [(0, 0), (1, 1)]


@settings(max_examples=60, deadline=None)
@given(boxes, boxes)
def test_every_box_is_in_a_pair_missed_or_extra(truths: list[RotatedBox], found: list[RotatedBox]) -> None:
    made = match(truths, found)
    assert sorted([pair.truth for pair in made.pairs] + list(made.missed)) == list(range(len(truths)))
    assert sorted([pair.found for pair in made.pairs] + list(made.extra)) == list(range(len(found)))
    assert all(pair.iou >= 0.1 for pair in made.pairs)
    assert mean_iou(truths, truths) == pytest.approx(1) and 0 <= mean_iou(truths, found) <= 1


def test_errors_are_told_apart() -> None:
    truth = canonical(100, 100, 40, 10, 85)
    moved = errors(truth, canonical(110, 100, 40, 10, 85))
    assert (moved.centre, moved.size, moved.angle) == (pytest.approx(0.5), pytest.approx(0), pytest.approx(0))
    grown = errors(truth, canonical(100, 100, 60, 15, 85))
    assert (grown.centre, grown.size) == (0, pytest.approx(math.log(2.25)))
    assert errors(truth, canonical(100, 100, 40, 10, -85)).angle == pytest.approx(10), "angles are modulo 180"
    assert errors(canonical(0, 0, 12, 10, 0), truth).angle is None, "what is nearly square has no direction"
