"""Shares of a mixture."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.data.mixing import MixConfig, SetSize, plan_mixture, shares
from sightline.errors import Refused

FOUR = [SetSize(name=name, rows=rows) for name, rows in {"a": 10_000, "b": 40_000, "c": 90_000, "d": 160_000}.items()]
THREE = [SetSize(name="tiles", rows=100), SetSize(name="web", rows=900), SetSize(name="text", rows=100)]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (MixConfig(method="square-root"), [0.1, 0.2, 0.3, 0.4]),
        (MixConfig(method="temperature", temperature=2.0), [0.1, 0.2, 0.3, 0.4]),
        (MixConfig(), [1 / 30, 4 / 30, 0.3, 16 / 30]),
        (MixConfig(method="equal"), [0.25] * 4),
        (MixConfig(method="explicit"), [0.25] * 4),
    ],
)
def test_methods(config: MixConfig, expected: list[float]) -> None:
    assert shares(FOUR, config) == pytest.approx(expected)


def test_square_root_shares_give_back_the_ratios_that_were_published() -> None:
    """X-InstructBLIP, image_train.yaml: `train_dataset_ratios` beside the sizes that they imply."""
    published = {"coco": (566_747, 0.0595940), "vg": (821_774, 0.0717603), "vqa-v2": (658_104, 0.0642178)}
    base = published["coco"][0] ** 0.5 / published["coco"][1]
    others = SetSize(name="others", rows=round((base - sum(rows**0.5 for rows, _ in published.values())) ** 2))
    found = shares([*(SetSize(name=name, rows=rows) for name, (rows, _) in published.items()), others], MixConfig(method="square-root"))
    assert found[:3] == pytest.approx([ratio for _, ratio in published.values()], abs=2e-7)


def test_weights_multiply_and_explicit_shares_are_those_said() -> None:
    assert shares(THREE, MixConfig(method="equal"), {"web": 2.0}) == pytest.approx([0.25, 0.5, 0.25])
    assert shares(THREE, MixConfig(method="explicit"), {"tiles": 6, "web": 3, "text": 1}) == pytest.approx([0.6, 0.3, 0.1])


def test_generic_pictures_stay_below_those_of_the_domain() -> None:
    assert shares(THREE, MixConfig(not_above={"web": "tiles"})) == pytest.approx([1 / 3] * 3, abs=1e-6)
    grouped = MixConfig(groups={"domain": ("tiles",), "generic": ("web", "text")}, not_above={"generic": "domain"})
    assert shares(THREE, grouped) == pytest.approx([0.5, 0.45, 0.05], abs=1e-6)


def test_bounds_hold_together() -> None:
    assert shares(THREE, MixConfig(most={"web": 0.3, "text": 0.1})) == pytest.approx([0.6, 0.3, 0.1], abs=1e-6)


def test_text_that_models_wrote_is_bounded() -> None:
    sizes = [SetSize(name="people", rows=100), SetSize(name="mixed", rows=300, written=0.8)]
    found = shares(sizes, MixConfig(most={"written": 0.2}))
    assert found == pytest.approx([0.75, 0.25]) and found[1] * 0.8 == pytest.approx(0.2)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(Refused, match="loosen one of them"):
        shares(THREE, MixConfig(most={"tiles": 0.2, "web": 0.3, "text": 0.1}))
    with pytest.raises(Refused, match="nothing else in the mixture"):
        shares(THREE[:1], MixConfig(most={"tiles": 0.5}))
    with pytest.raises(Refused, match="a bound or group of 'tile'"):
        shares(THREE, MixConfig(most={"tile": 0.5}, groups={"generic": ("web",)}))
    with pytest.raises(Refused, match="weights that add up to 0"):
        shares(THREE, MixConfig(method="explicit"), dict.fromkeys(("tiles", "web", "text"), 0.0))


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=8), st.sampled_from(["proportional", "equal", "square-root"]), st.integers(1, 100_000))
def test_visits_add_up_and_no_set_is_off_by_a_row(rows: list[int], method: str, total: int) -> None:
    sizes = [SetSize(name=str(number), rows=count) for number, count in enumerate(rows)]
    plan = plan_mixture(sizes, MixConfig.model_validate({"method": method, "rows": total}))
    assert sum(one.visits for one in plan) == total
    assert all(abs(one.visits - one.share * total) < 1 + 1e-6 and one.times == one.visits / one.rows for one in plan)


def test_epochs_may_be_counted_in_tokens() -> None:
    sizes = [SetSize(name="short", rows=100, tokens=10), SetSize(name="long", rows=100, tokens=90)]
    assert sum(one.visits for one in plan_mixture(sizes, MixConfig(tokens=5000))) == 100
    assert sum(one.visits for one in plan_mixture(sizes, MixConfig(tokens=500))) == 10
