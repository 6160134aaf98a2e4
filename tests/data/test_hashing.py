"""Perceptual and textual fingerprints."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sightline.data import hashing
from sightline.data.hashing import (
    PictureHashes,
    alike_texts,
    distance,
    groups,
    hashed,
    jaccard,
    minhash,
    near_pairs,
    picture_hashes,
    shingles,
    signatures,
    text_key,
    thumbnail,
)
from sightline.samples.dihedral import TURNS, turned_pixels


def blocks(seed: int) -> np.ndarray:
    """A 256x256 picture of 16x16 random blocks."""
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3)).astype(np.uint8).repeat(16, 0).repeat(16, 1)


def recoded(pixels: np.ndarray, quality: int) -> np.ndarray:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality)
    return np.asarray(Image.open(out))


def test_recoding_and_resizing_move_hashes_by_a_bit_at_most_and_other_pictures_are_far() -> None:
    first = picture_hashes(blocks(0))
    small = np.asarray(Image.fromarray(blocks(0)).resize((100, 100), Image.Resampling.BICUBIC))
    for same in (recoded(blocks(0), 60), small):
        other = picture_hashes(same)
        assert distance(first.dct[0], other.dct[0]) <= 1 and distance(first.gradient[0], other.gradient[0]) <= 1
    stranger = picture_hashes(blocks(1))
    assert distance(first.dct, stranger.dct[0]).min() > 20 and distance(first.gradient, stranger.gradient[0]).min() > 20


@pytest.mark.parametrize("turn", range(1, TURNS))
def test_each_orientation_is_found_and_only_where_wanted(turn: int) -> None:
    hashes = [picture_hashes(blocks(0)), picture_hashes(np.ascontiguousarray(turned_pixels(blocks(0), turn)))]
    assert [(pair.first, pair.second, pair.turned) for pair in near_pairs(hashes)] == [(0, 1, True)]
    assert list(near_pairs(hashes, orientations=False)) == []


def test_flat_pictures_are_near_nothing() -> None:
    flat = [picture_hashes(np.full((64, 64, 3), value, np.uint8)) for value in (0, 0, 255)]
    assert all(hashes.flat for hashes in flat) and list(near_pairs(flat)) == []


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), min_size=2, max_size=6), st.integers(0, 8), st.integers(0, 2**64 - 1))
def test_bands_find_every_pair_of_different_pictures_that_comparing_all_would(values: list[tuple[int, int]], within: int, flip: int) -> None:
    values = [*values, (values[0][0] ^ (flip & 0x8040201008040201), values[0][1])]
    hashes = [PictureHashes(dct=np.full(8, a, np.uint64), gradient=np.full(8, b, np.uint64), flat=False) for a, b in values]
    found = {(pair.first, pair.second) for pair in near_pairs(hashes, within)}
    expected = {
        (i, j)
        for j in range(len(values))
        for i in range(j)
        if max((values[i][0] ^ values[j][0]).bit_count(), (values[i][1] ^ values[j][1]).bit_count()) <= within
    }
    first = {number: values.index(value) for number, value in enumerate(values)}
    repeats = {(place, number) for number, place in first.items() if place != number}
    assert found == {pair for pair in expected if all(first[number] == number for number in pair)} | repeats


def test_a_thousand_copies_are_a_thousand_pairs() -> None:
    hashes = picture_hashes(blocks(0))
    assert [(pair.first, pair.second) for pair in near_pairs([hashes] * 1000)] == [(0, number) for number in range(1, 1000)]


def test_hashes_travel_as_text() -> None:
    hashes = picture_hashes(blocks(3))
    again = PictureHashes.of_text(hashes.text())
    assert (again.dct == hashes.dct).all() and (again.gradient == hashes.gradient).all() and again.flat == hashes.flat and len(hashes.text()) == 257


def test_groups_are_connected_and_named_by_their_first() -> None:
    assert groups(6, [(4, 2), (2, 1), (5, 3)]).tolist() == [0, 1, 1, 3, 1, 3]


def test_texts_are_equal_up_to_width_case_and_space() -> None:
    assert text_key("  A  Large\tShip") == text_key("a large ship") != text_key("a large ships")


def test_signatures_estimate_jaccard() -> None:
    a, b = "a large white ship lies in the harbour beside two small boats", "a large white ship lies in the harbour beside three small boats"
    estimate = (minhash(a) == minhash(b)).mean()
    assert estimate == pytest.approx(jaccard(shingles(a), shingles(b)), abs=0.12)


def test_alike_texts_are_found_exactly() -> None:
    texts = [
        "a large white ship lies in the harbour beside two small boats",
        "an empty field",
        "A large white ship lies in the harbour beside two small boats.",
        "",
    ]
    assert [(first, second) for first, second, _ in alike_texts(texts)] == [(0, 2)]
    assert jaccard(frozenset(), frozenset()) == 1.0


def test_many_pictures_and_texts_give_what_each_gives_alone() -> None:
    texts = ["", "a", "abcde", "a pond beside a road", "\u6c60\u5858\u65c1\u8fb9\u7684\u9053\u8def", "\ud800 half"]
    assert (signatures(texts) == np.stack([minhash(text) for text in texts])).all()
    pictures = [Image.fromarray(blocks(seed)) for seed in range(3)]
    together = [one.text() for one in hashed([thumbnail(one) for one in pictures])]
    assert together == [picture_hashes(one).text() for one in pictures] and hashed([]) == []
    assert [one.text() for one in PictureHashes.of_texts(together)] == together


def test_pairs_are_the_same_whatever_is_compared_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 1 << 63, (6, 8), dtype=np.uint64)
    near = np.uint64(1) << rng.integers(0, 64, (40, 1), dtype=np.uint64)  # one bit of each differs: near each other, and not equal
    hashes = [PictureHashes(dct=base[k % 6] ^ near[k], gradient=base[k % 6], flat=k == 5) for k in range(40)]
    texts = [f"picture {k % 7} of a pond beside the road to the harbour" for k in range(40)]
    whole = list(near_pairs(hashes)), list(alike_texts(texts))
    monkeypatch.setattr(hashing, "_BLOCK", 3)
    monkeypatch.setattr(hashing, "_AT_ONCE", 2)
    assert (list(near_pairs(hashes)), list(alike_texts(texts))) == whole
    order = [(pair.second, pair.first) for pair in whole[0]]
    assert order == sorted(order) and len(order) > 100
