"""Recognition, the policies for rows that cannot be read, workers, and joins."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightline.data import reading
from sightline.data.joining import join, merge, summary
from sightline.data.readers.class_folders import ClassFolders
from sightline.data.readers.dota import Dota
from sightline.data.readers.icdar import Icdar
from sightline.data.readers.karpathy_captions import KarpathyCaptions
from sightline.data.readers.label_masks import LabelMasks
from sightline.data.readers.llava_json import LlavaJson
from sightline.data.readers.reader import Reader
from sightline.data.reading import READER, choose, named, read_into, read_sets, read_sources, recognise_all
from sightline.errors import Problem, Refused
from sightline.samples.sample import Box, Mask, Origin, Region, RotatedBox, Sample, Text, Turn


def scene(root: Path, count: int = 3) -> Path:
    """Pictures with masks, instances, rotated boxes, texts and captions, all in one folder."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks", "instances", "labelTxt", "texts"):
        (root / name).mkdir(parents=True)
    images: list[dict[str, Any]] = []
    for number in range(count):
        mask, instances = np.ones((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
        mask[4:8, 2:12], instances[4:8, 2:12] = 12, 1
        Image.fromarray(rng.integers(0, 255, (20, 20, 3), np.uint8)).save(root / "images" / f"{number}.png")
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
        Image.fromarray(instances).save(root / "instances" / f"{number}.png")
        (root / "labelTxt" / f"{number}.txt").write_text("gsd:null\n2 4 12 4 12 8 2 8 marking 0\n")
        (root / "texts" / f"{number}.txt").write_text("2,4,12,4,12,8,2,8,K7\n")
        images.append({"filename": f"{number}.png", "split": "train", "sentences": [{"raw": f"caption {number}"}]})
    (root / "dataset_scenes.json").write_text(json.dumps({"images": images}))
    return root


def test_every_kind_is_a_reader_with_defaults() -> None:
    assert len(READER.table()) >= 44 and {"coco", "dota", "label-masks", "llava-json", "webdataset"} <= set(READER.table())
    assert all(isinstance(cls(), Reader) for cls in READER.table().values())


def test_a_format_is_recognised_and_the_reason_said(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"id": 1, "conversations": []}]))
    (candidate,) = recognise_all(tmp_path / "a.json")
    assert (candidate.kind, candidate.confidence) == ("llava-json", 0.9) and "conversations" in candidate.reason
    (chosen,) = choose(tmp_path).sets[0]
    assert chosen.reader == LlavaJson() and chosen.record()["reason"] == candidate.reason


def test_no_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"data/unknown-format .*\n +found: +no known format\n +allowed: .*class-folders.*dota"):
        choose(tmp_path)
    with pytest.raises(Refused, match="no such file or folder"):
        choose(tmp_path / "none")


def test_formats_that_read_different_files_are_joined(tmp_path: Path) -> None:
    folder = scene(tmp_path / "s")
    chosen = choose(folder)
    kinds = sorted(choice.candidate.kind for choice in chosen.sets[0])
    assert kinds == ["dota", "icdar", "karpathy-captions", "label-masks"] and not chosen.left_out
    assert all(choice.record()["reason"] and choice.reader.name(folder) == f"s/{choice.candidate.kind}" for choice in chosen.sets[0])
    assert f"{folder}: dota (" in str(chosen) and len(chosen.record()["formats"]) == 4
    for masks in ("masks", "instances"):
        shutil.rmtree(folder / masks)
    store = read_into(folder, "auto", tmp_path / "out")
    assert [(sample.id, sample.origin.source, sample.text(1)) for sample in store] == [(f"{k}.png", "s/karpathy-captions", f"caption {k}") for k in range(3)]
    assert {type(region.shape) for region in store[0].annotations} == {RotatedBox}


class Claims(Reader):
    """A format that claims what it is told to."""

    sure: float = 0.9
    files: tuple[str, ...] = ()

    def recognise(self, path: Path) -> tuple[float, str] | None:
        return (self.sure, "claimed") if path.name == "here" else None

    def annotated(self, path: Path) -> frozenset[Path]:
        return frozenset(path / name for name in self.files)


@pytest.mark.parametrize(
    ("claims", "taken"),
    [
        ({"a": (0.9, "x"), "b": (0.8, "x")}, "a"),
        ({"a": (0.8, "x"), "b": (0.9, "xy"), "c": (0.5, "y")}, "b"),
        ({"a": (0.9, "x"), "b": (0.8, "xy"), "c": (0.5, "y")}, "ac"),
        ({"a": (0.9, "x"), "b": (0.9, "y"), "c": (0.5, "")}, "abc"),
        ({"a": (0.9, ""), "b": (0.8, "")}, "a"),
        ({"a": (0.9, "x"), "b": (0.9, "xy")}, "refused: a (0.9: claimed); b (0.9: claimed)"),
    ],
)
def test_of_formats_that_claim_the_same_files_the_most_confident_is_taken(
    claims: dict[str, tuple[float, str]], taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers = {kind: (lambda sure=sure, files=files: Claims(sure=sure, files=tuple(files))) for kind, (sure, files) in claims.items()}
    monkeypatch.setattr(reading.READER, "table", lambda: readers)
    (tmp_path / "here").mkdir()
    if taken.startswith("refused"):
        with pytest.raises(Refused, match=r"several formats fit the same files: (.*)") as refused:
            choose(tmp_path / "here")
        assert taken.removeprefix("refused: ") in refused.value.problems[0].found
        return
    assert "".join(choice.candidate.kind for choice in choose(tmp_path / "here").sets[0]) == taken


def test_folders_of_a_folder_are_sets_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one/here", "two/here", "notes"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading.READER, "table", lambda: {"claims": Claims})
        patch.setattr(Claims, "recognise", lambda reader, path: (0.9, "claimed") if (path / "here").is_dir() else None)
        chosen = choose(tmp_path)
    assert [[choice.path.name for choice in one] for one in chosen.sets] == [["one"], ["two"]] and [path.name for path in chosen.left_out] == ["notes"]
    assert str(chosen).endswith("notes: left out, no known format")
    sets = [[(KarpathyCaptions(), scene(tmp_path / name, 2))] for name in ("a", "b")]
    store = read_sets(sets, tmp_path / "out")
    assert [(sample.origin.source, sample.id) for sample in store] == [(name, f"{k}.png") for name in "ab" for k in range(2)], "equal pictures are not joined"
    assert [sample.origin.source for sample in read_sets(sets, tmp_path / "out", limit=3)] == ["a", "a", "b"]


def test_questions_on_a_picture_stay_rows_and_share_its_annotations(tmp_path: Path) -> None:
    folder = scene(tmp_path / "s", 2)
    ask = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a marking"}]
    rows = [{"id": f"q{k}", "image": f"images/{k % 2}.png", "conversations": ask if k != 3 else 1} for k in range(5)]
    (folder / "questions.json").write_text(json.dumps(rows))
    sources = [(Dota(), folder), (LlavaJson(pictures="."), folder / "questions.json")]
    store = read_sources(sources, tmp_path / "out", on_problem="quarantine")
    assert [(sample.id, sample.origin.source) for sample in store] == [("q0", "questions"), ("q2", "questions"), ("q4", "questions"), ("q1", "questions")]
    assert all([region.label for region in sample.annotations] == ["marking"] for sample in store)
    assert [parent.startswith("s:0") for parent in store[0].origin.parents] == [True]
    assert store.counts()["refused"] == 1, "a broken question takes no other with it"
    (folder / "images" / "0.png").write_bytes(b"")
    store = read_sources(sources, tmp_path / "out", on_problem="quarantine")
    assert [sample.id for sample in store] == ["q1"] and store.counts()["refused"] == 1 + 4, "a broken picture is three questions and one set of labels"


def test_a_misspelt_format(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"found: +'dotta'(.|\n)*did you mean 'dota'\?"):
        named("dotta")


def test_refuse_lists_all_problems_and_writes_nothing(tmp_path: Path) -> None:
    rows = [{"id": str(k), "image": f"{k}.png", "conversations": []} for k in range(25)] + [{"id": "x", "conversations": 1}]
    Image.new("RGB", (12, 12)).save(tmp_path / "0.png")
    rows[0]["conversations"] = [{"from": "human", "value": "<image>\na"}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    with pytest.raises(Refused) as refused:
        read_into(tmp_path / "a.json", LlavaJson(), tmp_path / "out")
    problems = refused.value.problems
    assert len(problems) == 21 and problems[0].place.endswith("a.json:row 25")
    assert (problems[-1].code, problems[-1].found) == ("samples/missing-picture", "5 more of this kind")
    assert not (tmp_path / "out").exists()


def test_quarantine_counts_and_lists_them(tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    rows = [{"id": "1", "conversations": talk}, {"id": "1", "conversations": talk}, {"id": "2", "conversations": 0}, {"id": "3", "conversations": talk[1:]}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    store = read_into(tmp_path / "a.json", "llava-json", tmp_path / "out", on_problem="quarantine")
    assert store.counts() == {"kept": 2, "quarantined": 0, "refused": 2}
    assert sorted(problem.code for problem in store.refused()) == ["data/wrong-shape", "samples/duplicate-id"]
    assert [problem.code for problem in store.warnings()] == ["data/leading-assistant"]
    with pytest.raises(Refused, match="samples/duplicate-id"):
        read_into(tmp_path / "a.json", "llava-json", tmp_path / "out2")


def test_limit_takes_the_first_rows(tmp_path: Path) -> None:
    store = read_into(scene(tmp_path / "s", 4), KarpathyCaptions(source="toy", licence="CC0"), tmp_path / "out", limit=2)
    assert [sample.id for sample in store] == ["0.png", "1.png"]
    assert store[0].origin == Origin(source="toy", row="0", licence="CC0")


def test_the_result_does_not_depend_on_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK_ROWS", 10)
    folder = scene(tmp_path / "s", 150)
    (folder / "images" / "77.png").write_bytes(b"")
    readers = [LabelMasks(labels="scenes"), Dota()]
    stores = [read_into(folder, readers, tmp_path / str(workers), workers=workers, on_problem="quarantine") for workers in (1, 2)]
    assert stores[0].id == stores[1].id
    assert stores[0].counts() == {"kept": 149, "quarantined": 0, "refused": 1} and stores[0].refused() == stores[1].refused()


def test_several_readers_see_one_picture(tmp_path: Path) -> None:
    folder = scene(tmp_path / "s")
    store = read_into(folder, [LabelMasks(labels="scenes"), Dota(), KarpathyCaptions(), Icdar(label="marking")], tmp_path / "out")
    assert len(store) == 3
    sample = store[1]
    assert sample.id == "1.png" and sample.text(1) == "caption 1" and sample.attributes["split"] == "train" and len(sample.pictures) == 1
    found = [(region.label, type(region.shape), "instance" in region.attributes, region.attributes.get("text")) for region in sample.annotations]
    assert found == [("bare", Mask, False, None), ("marking", Mask, False, None), ("marking", Mask, True, None), ("marking", RotatedBox, False, "K7")]


def test_pictures_at_different_paths_are_joined_by_their_bytes(tmp_path: Path) -> None:
    folder = scene(tmp_path / "s", 2)
    copies = tmp_path / "classes"
    for number, name in enumerate(("BareLand", "Forest")):
        (copies / name).mkdir(parents=True)
        (copies / name / "copy.png").write_bytes((folder / "images" / f"{number}.png").read_bytes())
    store = read_sources([(KarpathyCaptions(), folder), (ClassFolders(), copies)], tmp_path / "out")
    assert [(sample.text(1), sample.annotations[0].label) for sample in store] == [("caption 0", "bare land"), ("caption 1", "forest")]
    assert store[0].origin.parents == ("classes:BareLand/copy.png",)
    stores = [read_into(folder, KarpathyCaptions(), tmp_path / "a"), read_into(copies, "class-folders", tmp_path / "b")]
    assert list(join(stores)) == list(store)


def test_joins_that_are_not_clear_are_refused(tmp_path: Path) -> None:
    captions = read_into(scene(tmp_path / "s", 2), KarpathyCaptions(), tmp_path / "a")
    with pytest.raises(Refused, match=r"data/two-dialogues at s:0.png\n +found: +samples 0.png, 0.png all have turns"):
        list(join([captions, captions]))
    silent = [replace(sample, turns=(), attributes={"split": "test"}) for sample in captions]
    with pytest.raises(Refused, match=r"data/join-conflict at s:0.png\n +found: +split is 'train' and 'test'"):
        list(join([captions, silent]))
    with pytest.raises(Refused, match=r"data/join-ambiguous at s:twin\n +found: +the same pictures as 0.png"):
        list(join([[captions[0], replace(captions[0], id="twin")]]))


def test_text_only_samples_pass_a_join() -> None:
    said = (Turn(role="user", items=(Text(text="hi"),)),)
    sets = [[Sample(id=name, turns=said, origin=Origin(source=name))] for name in "ab"]
    assert [sample.id for sample in join(sets)] == ["a", "b"]


def test_equal_regions_of_two_sets_become_one_and_those_of_one_set_stay() -> None:
    box = Region(label="ship", shape=Box(x0=0, y0=0, x1=1, y1=1))
    first = Sample(id="a", annotations=(box, box), origin=Origin(source="x"))
    second = Sample(id="b", annotations=(replace(box, attributes={"text": "K"}), replace(box, label="pond")), origin=Origin(source="y", row="7"))
    merged = merge([first, second])
    assert [(region.label, region.attributes) for region in merged.annotations] == [("ship", {"text": "K"}), ("ship", {}), ("pond", {})]
    assert merged.origin == Origin(source="x", parents=("y:7",))
    assert merge([first]) is first


def test_a_summary_counts_what_it_does_not_show() -> None:
    problems = [Problem(code=f"data/{name}", place=str(k), found="x") for k, name in enumerate("a" * 21 + "b" * 3)]
    short = summary(problems)
    assert short[:20] == problems[:20]
    assert [(problem.code, problem.found) for problem in short[20:]] == [("data/a", "1 more of this kind"), ("data/b", "3 more of this kind")]
