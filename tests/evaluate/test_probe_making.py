"""Probes of a user's own annotations: balanced pairs, clear colours, MME's layout, no picture of the training sets."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from published_files import answered, built
from sightline.cli.main import main
from sightline.errors import Refused
from sightline.evaluate.probe_making import Asked, leaks, make_probe
from sightline.evaluate.probe_pairs import Candidate, balanced, clear_colour
from sightline.samples.pictures import describe
from sightline.samples.sample import Box, Origin, Region, Sample
from sightline.samples.store import Store

LABELS = ("ship", "plane", "road", "pond")
PAINTS = {"ship": (220, 10, 10), "plane": (250, 250, 250), "road": (5, 5, 5), "pond": (20, 30, 220)}


def store(path: Path, count: int, seed: int = 0) -> Path:
    """Pictures of noise with boxes of plain colour."""
    rng = np.random.default_rng(seed)
    with Store.writer(path, source="t") as writer:
        for number in range(count):
            values = rng.integers(60, 190, (64, 64, 3), np.uint8)
            regions = []
            for place in rng.permutation(4)[: int(rng.integers(1, 4))].tolist():
                label = LABELS[int(rng.integers(4))]
                x, y = 4 + 32 * (place % 2), 4 + 32 * (place // 2)
                paint = PAINTS[label] if rng.random() < 0.5 else PAINTS[LABELS[int(rng.integers(4))]]
                values[y : y + 16, x : x + 16] = paint
                regions.append(Region(label=label, shape=Box(x0=x, y0=y, x1=x + 16, y1=y + 16)))
            stream = io.BytesIO()
            Image.fromarray(values).save(stream, "PNG")
            picture = describe(stream.getvalue(), f"{seed}-{number}.png", "t")
            writer.add(Sample(id=f"{number}", pictures=(picture,), annotations=tuple(regions), origin=Origin(source="t")))
    return path


def test_a_probe_is_balanced_and_asked_as_mme_and_as_own_lines(tmp_path: Path) -> None:
    report = make_probe([store(tmp_path / "s", 40)], tmp_path / "probe", most=20)
    asked = [json.loads(line) for line in (tmp_path / "probe" / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {one["kind"] for one in asked} == {"existence", "count", "position", "color"}
    sides = Counter((one["question"], one["answer"]) for one in asked)
    assert all(sides[question, "yes"] == sides[question, "no"] for question, _ in sides)
    assert report["leaks"]["same words"]["value"] == report["leaks"]["majority"]["value"] == 0.5 and not report["leaks"]["above chance"]
    assert all(0 < told["pictures"] <= 20 for told in report["kinds"].values())
    mme = built("mme", tmp_path / "probe")
    assert len(mme.rows) == len(asked)
    assert mme.score(answered(mme, *(row.answer for row in mme.rows))).metrics["color score"].value == 200
    own = built("jsonl", tmp_path / "probe" / "questions.jsonl")
    assert own.score(answered(own, *["Yes"] * len(own.rows))).metrics["all"].value == 0.5


def test_pictures_of_training_are_left_out(tmp_path: Path) -> None:
    data = store(tmp_path / "s", 30)
    seen = list(Store.open(data))[:8]
    small = io.BytesIO()
    Image.open(io.BytesIO(bytes(seen[0].pictures[0].data))).resize((96, 96)).save(small, "PNG")  # pyright: ignore[reportArgumentType]
    with Store.writer(tmp_path / "train", source="t") as writer:
        writer.add(Sample(id="resized", pictures=(describe(small.getvalue(), "x.png", "t"),), origin=Origin(source="t")))
        for sample in seen[1:]:
            writer.add(sample)
    report = make_probe([data], tmp_path / "probe", [tmp_path / "train"], most=20)
    assert report["left out"] == {"same bytes as a training picture": 7, "near a training picture": 1}
    used = {path.read_bytes() for path in (tmp_path / "probe").glob("*/*.png")}
    assert used and not used & {sample.pictures[0].data for sample in seen}
    with pytest.raises(Refused, match="balanced"):
        make_probe([data], tmp_path / "other", [data])


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 4), st.integers(0, 4)), max_size=40), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_balance_holds_for_any_candidates(drawn: list[tuple[int, int, int]], most: int) -> None:
    found = [Candidate(picture=number, kind="count", yes=f"q{a}", no=f"q{b}") for number, a, b in drawn if a != b]
    chosen = balanced(found, most, np.random.default_rng(0))
    assert len(chosen) <= most and len({one.picture for one in chosen}) == len(chosen)
    assert Counter(one.yes for one in chosen) == Counter(one.no for one in chosen)


def test_as_many_pairs_as_can_be() -> None:
    found = [Candidate(picture=k, kind="existence", yes=yes, no=no) for k, (yes, no) in enumerate((("a", "b"), ("b", "c"), ("c", "a"), ("a", "d")))]
    assert [one.picture for one in balanced(found, 9, np.random.default_rng(0))] == [0, 1, 2]
    assert balanced(found[:2], 9, np.random.default_rng(0)) == []


def test_a_leak_is_seen() -> None:
    asked = [Asked(k, text, yes) for k in range(40) for text, yes in (("is there a ship", True), ("is there a comet", False))]
    told = leaks(asked)
    assert told["above chance"] and told["bag of words"]["value"] == 1.0 and told["majority"]["value"] == 0.5


@pytest.mark.parametrize(
    ("paint", "name"), [((200, 20, 20), "red"), ((250, 250, 245), "white"), ((10, 12, 9), "black"), ((30, 160, 40), "green"), ((128, 128, 128), None)]
)
def test_only_clear_colours_are_said(paint: tuple[int, int, int], name: str | None) -> None:
    values = np.tile(np.array(paint, np.uint8), (100, 1))
    assert clear_colour(values) == name
    values[:50] = (90, 60, 130)
    assert clear_colour(values) is None and clear_colour(values[50:70]) is None


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", "make-probe", "--data", str(store(tmp_path / "s", 30)), "--out", str(tmp_path / "p"), "--most", "5"]
    assert main(words) == 0 and "existence" in capsys.readouterr().out
    assert main([*words[:4], "--out", str(tmp_path / "q"), "--kinds", "shape"]) == 2 and "shape" in capsys.readouterr().err
