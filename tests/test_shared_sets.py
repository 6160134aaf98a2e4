"""Every real set is recognised and read whole from its top folder, and its facts are those that were counted from its files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from sightline.data.engine import Local
from sightline.data.reading import choose, read_sets
from sightline.samples.sample import Region, Sample
from sightline.samples.store import Store

Fact = Callable[[list[Sample]], Any]


def captions(samples: Iterable[Sample]) -> int:
    return sum(len(sample.attributes["references"]) for sample in samples if "references" in sample.attributes)


def regions(samples: Iterable[Sample]) -> list[Region]:
    """What is known of each picture, once."""
    return [region for sample in {sample.pictures: sample for sample in samples}.values() for region in sample.annotations]


def spoken(samples: list[Sample], source: str) -> int:
    return sum(sample.origin.source.endswith(source) for sample in samples)


FACTS: dict[str, tuple[set[str], dict[str, Fact]]] = {
    "aid": ({"class-folders"}, {"images": len, "classes": lambda s: len({one.annotations[0].label for one in s})}),
    "coco_mini": ({"coco"}, {"images": len, "captions": captions, "instances": lambda s: sum("bbox" in one.attributes for one in regions(s))}),
    "dior_r": ({"voc-xml"}, {"images": len, "objects": lambda s: len(regions(s))}),
    "dota": ({"dota", "rsivqa"}, {"questions": len, "boxes": lambda s: len(regions(s)), "images": lambda s: len({one.pictures for one in s})}),
    "dronedeploy": ({"label-masks"}, {"pairs": len}),
    "easy_vqa": ({"easy-vqa"}, {"questions": len, "images": lambda s: len({one.pictures for one in s})}),
    "epfl_roads": ({"label-masks"}, {"pairs": len}),
    "flickr8k": ({"flickr-captions"}, {"images": lambda s: len({one.pictures for one in s})}),
    "hit_uav": ({"voc-xml"}, {"images": len, "objects": lambda s: len(regions(s)), "objects_without_DontCare": lambda s: sum(not one.attributes.get("ignore") for one in regions(s))}),
    "isprs": ({"label-masks"}, {"picture_files": lambda s: 2 * len(s)}),
    "levir_cd": ({"change-pairs"}, {"pairs": len}),
    "loveda": ({"label-masks"}, {"picture_files": lambda s: 2 * len(s)}),
    "mme_sample_answers": ({"mme-answers"}, {}),
    "nlvr": ({"nlvr"}, {"picture_files": len}),
    "rsicd": ({"karpathy-captions", "rsivqa"}, {"captions": captions, "images": lambda s: len({one.pictures for one in s})}),
    "sroie": ({"sroie"}, {"picture_files": len}),
    "ucm_captions": ({"karpathy-captions", "caption-map"}, {"images": len, "captions": captions}),
    "vqa_rad": ({"vqa-rad"}, {"questions": len}),
}  # fmt: skip


@pytest.mark.parametrize("name", FACTS)
def test_a_real_set_is_read_whole(name: str, shared_data: Path, tmp_path: Path) -> None:
    formats, facts = FACTS[name]
    chosen = choose(shared_data / name)
    assert {source.record()["format"] for sources in chosen.sets for source in sources} == formats
    store = read_sets(chosen.sources, tmp_path / "store", on_problem="refuse", engine=Local(workers=1))
    assert store.counts()["refused"] == store.counts()["quarantined"] == 0
    counted = json.loads((shared_data / "counts.json").read_text(encoding="utf-8"))[name]
    samples = list(store)
    assert {fact: measure(samples) for fact, measure in facts.items()} == {fact: counted[fact] for fact in facts}


def test_every_set_is_among_them(shared_data: Path) -> None:
    assert {folder.name for folder in shared_data.iterdir() if folder.is_dir()} - {"text", "serve_examples"} == set(FACTS)


def test_a_store_of_two_formats_tells_them_apart(shared_data: Path, tmp_path: Path) -> None:
    read_sets(choose(shared_data / "rsicd").sources, tmp_path / "store", on_problem="refuse", limit=40)
    samples = list(Store.open(tmp_path / "store"))
    assert spoken(samples, "/karpathy-captions") == spoken(samples, "/rsivqa") == 40
