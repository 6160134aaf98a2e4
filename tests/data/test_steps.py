"""One data step: read or take over, apply operators, write; what could not be read stays listed, nothing kept is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sightline.data.operators import OPERATOR, Take
from sightline.data.reading import READER
from sightline.data.scenes import Scenes
from sightline.data.steps import Kept, make_layout, read_and_apply
from sightline.errors import Refused
from sightline.samples.store import Store


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six made scenes in their published layouts."""
    folder = tmp_path_factory.mktemp("made") / "scenes"
    make_layout(Scenes(count=6, seed=3, val_share=0.0, test_share=0.5), folder)
    return folder


def reads(folder: Path) -> list:
    return [(READER.parse({"kind": kind}), folder) for kind in ("karpathy-captions", "label-masks", "dota")]


def step(out: Path, *, reads=(), source=None, operators=(), on_problem="refuse", seed=0, config="f") -> dict:
    return read_and_apply(reads, source, operators, out, on_problem=on_problem, seed=seed, config=config)


def test_reading_joins_and_the_fingerprint_is_written_down(scenes: Path, tmp_path: Path) -> None:
    report = step(tmp_path / "a", reads=reads(scenes), config="fingerprint")
    store = Store.open(tmp_path / "a")
    assert report["read"]["kept"] == len(store.kept) == 6
    assert store.lineage.config == "fingerprint"
    assert all(len(sample.turns) > 1 and sample.annotations for sample in Kept(store)), "captions and regions of one picture in one row"


def test_operators_follow_and_leave_nothing_beside_the_store(scenes: Path, tmp_path: Path) -> None:
    take = Take(split=("test",))
    report = step(tmp_path / "a", reads=reads(scenes), operators=[take], config="fingerprint")
    store = Store.open(tmp_path / "a")
    wanted = json.loads((scenes / "dataset_scenes.json").read_text())["images"]
    assert [sample.attributes["split"] for sample in Kept(store)] == ["test"] * sum(image["split"] == "test" for image in wanted)
    assert (report["read"]["kept"], report["written"]["kept"]) == (6, len(store.kept))
    assert 0 < len(store.kept) < 6
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert store.lineage.config == "fingerprint"
    assert [operator["operator"] for operator in report["operators"]] == ["take"]


def test_a_source_is_taken_over_with_its_parent_in_the_lineage(scenes: Path, tmp_path: Path) -> None:
    step(tmp_path / "a", reads=reads(scenes))
    questions = OPERATOR.parse({"kind": "questions", "per_picture": 2})
    source = Store.open(tmp_path / "a")
    ids = []
    for name, seed in (("b", 0), ("c", 0), ("d", 1)):
        step(tmp_path / name, source=source, operators=[questions], seed=seed)
        ids.append(Store.open(tmp_path / name).id)
    assert Store.open(tmp_path / "b").lineage.inputs == [{"id": source.id, "kind": "store"}]
    assert ids[0] == ids[1] != ids[2], "the same seed asks the same questions"


def test_what_could_not_be_read_stays_listed(tmp_path: Path) -> None:
    good = {"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (good, {"messages": [{"role": "user"}]}, good | {"id": "other"})))
    rows = [(READER.parse({"kind": "openai-messages"}), tmp_path / "rows.jsonl")]
    with pytest.raises(Refused, match=r"rows\.jsonl"):
        step(tmp_path / "refused", reads=rows)
    assert not (tmp_path / "refused").exists()
    step(tmp_path / "a", reads=rows, on_problem="quarantine")
    step(tmp_path / "b", source=Store.open(tmp_path / "a"), operators=[Take(first=1)])
    first, second = Store.open(tmp_path / "a"), Store.open(tmp_path / "b")
    assert first.counts() == {"kept": 2, "quarantined": 0, "refused": 1}
    assert second.counts()["refused"] == 1
    assert second.refused() == first.refused()


def test_nothing_kept_is_refused_with_the_counts_of_every_operator(scenes: Path, tmp_path: Path) -> None:
    step(tmp_path / "a", reads=reads(scenes))
    with pytest.raises(Refused, match=r"data/nothing-kept at data\.empty") as refused:
        step(tmp_path / "empty", source=Store.open(tmp_path / "a"), operators=[Take(split=("val",))])
    assert "take: 6 in" in refused.value.problems[0].found
    assert not (tmp_path / "empty").exists()
