"""Change pairs: which picture comes first, pairs without change, masks that are no masks, and the way back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from sightline.data.readers.change_pairs import ChangePairs
from sightline.errors import Problem, Refused
from sightline.samples.geometry import decode_mask, mask_area
from sightline.samples.sample import Box, Mask, Region, Sample


def put(root: Path, name: str, mask: np.ndarray, later: tuple[int, int] | None = None) -> None:
    for folder in ("A", "B", "label"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    size = (mask.shape[1], mask.shape[0])
    Image.new("RGB", size, (1, 0, 0)).save(root / "A" / name)
    Image.new("RGB", later or size, (2, 0, 0)).save(root / "B" / name)
    Image.fromarray(mask).save(root / "label" / name)


def changed_area(sample: Sample) -> int:
    return sum(mask_area(region.shape) for region in sample.annotations if isinstance(region.shape, Mask))


MASKS = arrays(np.uint8, (12, 14), elements=st.sampled_from([0, 255]))


@given(MASKS, st.sampled_from(["train_3_0_256.png", "x.png"]), st.sampled_from(["", "val"]))
@settings(deadline=None, max_examples=30)
def test_what_is_written_comes_back(tmp_path_factory: pytest.TempPathFactory, mask: np.ndarray, name: str, split: str) -> None:
    root = tmp_path_factory.mktemp("pairs")
    put(root / "a" / split, name, mask)
    (sample,) = ChangePairs(source="s").read(root / "a")
    assert isinstance(sample, Sample) and sample.attributes["changed"] == bool(mask.any())
    for region in sample.annotations:
        assert (region.picture, region.label) == (1, "changed building") and isinstance(region.shape, Mask)
        assert np.array_equal(decode_mask(region.shape), mask > 0)
    assert len(sample.annotations) == mask.any() and ChangePairs().write([sample], root / "b") == []
    (back,) = ChangePairs(source="s").read(root / "b")
    assert isinstance(back, Sample)
    assert back == replace(sample, id=back.id, origin=replace(sample.origin, row=back.id))


def test_the_label_may_be_named(tmp_path: Path) -> None:
    put(tmp_path, "a.png", np.eye(12, dtype=np.uint8))
    (sample,) = ChangePairs(changed="flooded ground").read(tmp_path)
    assert isinstance(sample, Sample) and sample.annotations[0].label == "flooded ground" and changed_area(sample) == 12


def test_pairs_that_do_not_fit_are_named(tmp_path: Path) -> None:
    put(tmp_path, "a.png", np.full((12, 12), 100, np.uint8))
    put(tmp_path, "b.png", np.zeros((12, 12), np.uint8), later=(13, 12))
    few = np.zeros((20, 20), np.uint8)
    few[0, 0] = 7
    put(tmp_path, "c.png", few)
    put(tmp_path, "d.png", few)
    (tmp_path / "B" / "d.png").unlink()
    incomplete, values, size, warning, sample = sorted(
        ChangePairs().read(tmp_path), key=lambda found: (isinstance(found, Sample), str(found)[:16] != "data/incomplete-")
    )
    assert isinstance(incomplete, Problem) and (incomplete.code, incomplete.found) == ("data/incomplete-pair", "not in B/")
    assert isinstance(values, Problem) and values.found == "100.00% of 144 px are neither 0 nor 1 nor 255" and values.severity == "refuse"
    assert isinstance(size, Problem) and size.found == "12x12 and 13x12 px"
    assert isinstance(warning, Problem) and warning.severity == "warn" and warning.fix == "they count as unchanged"
    assert isinstance(sample, Sample) and sample.id == "c.png" and not sample.attributes["changed"]


def test_no_pairs(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"data/no-pairs (.|\n)*A/, B/ and label/ beside each other"):
        list(ChangePairs().read(tmp_path))


def test_what_pairs_cannot_hold_is_named(tmp_path: Path) -> None:
    put(tmp_path / "a", "a.png", np.eye(12, dtype=np.uint8))
    (sample,) = ChangePairs().read(tmp_path / "a")
    assert isinstance(sample, Sample)
    boxed = replace(sample, annotations=(Region(label="x", shape=Box(x0=0, y0=0, x1=3, y1=3)),))
    found = [problem.found for problem in ChangePairs().write([sample, boxed, replace(boxed, id="b.png"), replace(sample, pictures=())], tmp_path / "b")]
    assert found == [
        "a name that another pair has: 1 sample not written",
        "regions: 1 sample written without",
        "a sample without two pictures of one size and at most one change: 1 sample not written",
    ]


def test_levir_as_published(shared_data: Path) -> None:
    facts = json.loads((shared_data / "counts.json").read_text(encoding="utf-8"))["levir_cd"]
    root = shared_data / "levir_cd"
    known = ChangePairs().recognise(root)
    assert known is not None and known[1] == "A/, B/ and label/ hold 8 files of the same names"
    assert ChangePairs().annotated(root) == frozenset((root / "label").iterdir())
    samples = {Path(sample.id).name: sample for sample in ChangePairs().read(root) if isinstance(sample, Sample)}
    assert len(samples) == facts["pairs"]
    assert {name: changed_area(sample) for name, sample in samples.items()} == facts["changed_pixels_per_pair"]
    assert [name for name, sample in samples.items() if not sample.attributes["changed"]] == facts["pairs_without_change"]
    splits = [sample.attributes["split"] for sample in samples.values()]
    assert {split: splits.count(split) for split in set(splits)} == facts["pairs_by_name_prefix"]
    assert {name for name, sample in samples.items() if sample.attributes["tile_of"] == "test_2"} == {"test_2_0000_0000.png", "test_2_0000_0512.png"}
    earlier, later = samples["test_2_0000_0000.png"].pictures
    assert earlier.data == (root / "A" / "test_2_0000_0000.png").read_bytes() and later.data == (root / "B" / "test_2_0000_0000.png").read_bytes()
