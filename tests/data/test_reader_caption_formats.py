"""Caption formats besides Karpathy's: published facts and traps, refusals by their text, and that what was written is read back."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from sightline.data.readers.capsfusion import Capsfusion
from sightline.data.readers.caption_csv import CaptionCsv
from sightline.data.readers.caption_list import CaptionList
from sightline.data.readers.caption_map import CaptionMap
from sightline.data.readers.caption_reader import CaptionReader, caption_turns
from sightline.data.readers.coco_karpathy_flat import CocoKarpathyFlat
from sightline.data.readers.flickr_captions import FlickrCaptions
from sightline.data.readers.karpathy_captions import KarpathyCaptions
from sightline.data.readers.nwpu_captions import NwpuCaptions
from sightline.data.readers.pixmo_captions import PixmoCaptions
from sightline.data.readers.reader import Reader, Row
from sightline.data.readers.textcaps import Textcaps
from sightline.errors import Problem, Refused
from sightline.samples.pictures import describe
from sightline.samples.sample import Box, Origin, Region, Sample, Show, Text, Turn


def encoded(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (12, 10), (shade, 0, 0)).save(stream, "JPEG")
    return stream.getvalue()


def put_pictures(folder: Path, *names: str) -> None:
    for shade, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(shade))


def samples_of(reader: Reader, path: Path) -> list[Sample]:
    found = list(reader.read(path))
    assert all(isinstance(one, Sample) for one in found), [str(one) for one in found if isinstance(one, Problem)]
    return [one for one in found if isinstance(one, Sample)]


def rows_of(reader: Reader, path: Path) -> list[Row]:
    found = list(reader.rows(path))
    assert all(isinstance(one, Row) for one in found)
    return [one for one in found if isinstance(one, Row)]


def facts(shared_data: Path, name: str) -> Any:
    return json.loads((shared_data / "counts.json").read_text(encoding="utf-8"))[name]


def refused(reader: Reader, path: Path) -> str:
    with pytest.raises(Refused) as found:
        raise Refused([one for one in reader.read(path) if isinstance(one, Problem)])
    return str(found.value)


def test_a_map_of_captions(tmp_path: Path) -> None:
    put_pictures(tmp_path, "airport_1.jpg", "2.jpg")
    (tmp_path / "captions.json").write_text('{"airport_1.jpg": {"split": "val", "captions": ["a", "a "]}, "2.jpg": {"captions": ["b"]}}')
    first, second = samples_of(CaptionMap(), tmp_path)
    assert first.attributes == {"split": "val", "class": "airport", "references": ["a", "a "]} and first.turns[1].alternatives == ()
    assert (second.id, second.attributes) == ("2.jpg", {"references": ["b"]})
    assert [row.id for row in rows_of(CaptionMap(split=["val"]), tmp_path)] == ["airport_1.jpg"]


def test_nwpu_captions_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    put_pictures(tmp_path, "bridge/bridge_001.jpg")
    row = {"filename": "bridge_001.jpg", "split": "test", "raw": "c0", "raw_4": "c4", "raw_1": "c1", "raw_2": "c2", "raw_3": "c3"}
    (tmp_path / "dataset_nwpu.json").write_text(json.dumps({"bridge": [row]}))
    assert NwpuCaptions().recognise(tmp_path) == (0.9, "dataset_nwpu.json maps classes to rows with raw captions")
    (sample,) = samples_of(NwpuCaptions(), tmp_path)
    assert sample.id == "bridge/bridge_001.jpg"
    assert sample.attributes == {"split": "test", "class": "bridge", "references": ["c0", "c1", "c2", "c3", "c4"]}
    (tmp_path / "dataset_nwpu.json").write_text(json.dumps({"bridge": [row, {"filename": "bridge_001.jpg"}], "pond": [row]}))
    _, *found = [str(one) for one in NwpuCaptions().read(tmp_path)]
    assert "data/wrong-shape" in found[0] and "bridge row 1" in found[0] and "pond/bridge_001.jpg is not there" in found[1]


def test_flat_rows_of_one_picture_are_one_sample(tmp_path: Path) -> None:
    put_pictures(tmp_path / "images", "val2014/a.jpg", "val2014/b.jpg")
    rows = [{"image": "val2014/a.jpg", "caption": "x", "image_id": "coco_1"}, {"image": "val2014/b.jpg", "caption": ["y", "z"]}]
    (tmp_path / "coco_karpathy_train.json").write_text(json.dumps([*rows, {**rows[0], "caption": "w"}]))
    first, second = samples_of(CocoKarpathyFlat(), tmp_path)
    assert (first.id, first.origin.row, first.attributes) == ("val2014/a.jpg", "coco_1", {"split": "train", "references": ["x", "w"]})
    assert second.attributes["references"] == ["y", "z"]
    (tmp_path / "coco_karpathy_train.json").write_text(json.dumps([rows[0], {"image": "val2014/b.jpg", "caption": [1]}]))
    assert "data/wrong-shape at" in refused(CocoKarpathyFlat(), tmp_path)


def put_flickr(folder: Path, **files: str) -> None:
    put_pictures(folder / "Images", "1_a.jpg", "2_b.jpg")
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")


def test_flickr_in_two_languages(tmp_path: Path) -> None:
    english = 'image,caption\n1_a.jpg,"A dog , running ."\n2_b.jpg,A cat .\n1_a.jpg,A dog .\n'
    put_flickr(tmp_path, captions=english, flickr8ktrain="1_a\n", flickr8ktest="")
    (tmp_path / "flickr8kzhc.caption.txt").write_text("1_a.jpg#zhc#0 \u4e00\u53ea\u72d7\n1_a.jpg#zhc#1 \u72d7\n", encoding="utf-8")
    found = samples_of(FlickrCaptions(), tmp_path)
    assert [(sample.id, sample.attributes.get("split"), sample.attributes["language"]) for sample in found] == [
        ("1_a.jpg", "train", "en"),
        ("2_b.jpg", None, "en"),
        ("1_a.jpg#zh", "train", "zh"),
    ]
    assert found[0].attributes["references"] == ["A dog , running .", "A dog ."] and found[2].text(1) == "\u4e00\u53ea\u72d7"
    assert {file.name for file in FlickrCaptions().annotated(tmp_path)} == {
        "captions.txt",
        "flickr8kzhc.caption.txt",
        "flickr8ktrain.txt",
        "flickr8ktest.txt",
    }
    assert rows_of(FlickrCaptions(split=["test"]), tmp_path) == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"captions": "image,caption\n1_a.jpg,a, b\n"}, r"data/wrong-shape at .*captions\.txt:2\n +found: +3 fields"),
        ({"captions": 'image,caption\n1_a.jpg,"a\n'}, r"data/not-csv at .*captions\.txt:2\n +found: +unexpected end of data"),
        ({"captions": "image,caption\n1_a.jpg,a\n", "flickr8kval": "9_z\n"}, r"data/missing-captions .*\n +found: +'9_z' stands in the list of val"),
        ({"captions": "image,caption\n1_a.jpg,a\n", "flickr8kval": "1_a\n", "flickr8ktrain": "1_a\n"}, r"data/split-conflict at .*flickr8kval\.txt:1"),
        ({"captions": "1_a.jpg#0\ta\nno caption\n"}, r"data/wrong-shape at .*captions\.txt:2\n +found: +'no caption'"),
    ],
)
def test_flickr_files_that_are_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    put_flickr(tmp_path, **files)
    with pytest.raises(Refused, match=message):
        raise Refused([one for one in FlickrCaptions().read(tmp_path) if isinstance(one, Problem)])


def test_flickr8k_as_published(shared_data: Path) -> None:
    fact = facts(shared_data, "flickr8k")
    rows = rows_of(FlickrCaptions(), shared_data / "flickr8k")
    for language, name in (("en", "english"), ("zh", "chinese")):
        part = [row.data["attributes"] for row in rows if row.data["attributes"]["language"] == language]
        captions = [text for attributes in part for text in attributes["references"]]
        assert (len(part), len(captions), len(set(captions))) == (fact["images"], fact[name]["captions"], fact[name]["unique_captions_overall"])
        distinct = Counter(str(len(set(attributes["references"]))) for attributes in part)
        assert distinct == fact[name]["unique_captions_per_image"]
        splits = Counter(attributes.get("split") for attributes in part)
        assert splits == {"train": fact["splits"]["train"], "val": fact["splits"]["val"], None: fact["images_in_no_list"]}
    loose = [Path(row.id).stem for row in rows if "split" not in row.data["attributes"] and not row.id.endswith("#zh")]
    assert sorted(loose) == fact["images_in_no_list_names"]
    sample = next(iter(FlickrCaptions().read(shared_data / "flickr8k")))
    assert isinstance(sample, Sample) and sample.turns[0].items == (Show(),)


def test_the_three_parts_of_the_ucm_folder(shared_data: Path) -> None:
    fact, path = facts(shared_data, "ucm_captions"), shared_data / "ucm_captions"
    found = samples_of(KarpathyCaptions(), path) + samples_of(CaptionMap(), path)
    assert len(found) == fact["images"] and len({sample.id for sample in found}) == fact["images"]
    assert sum(len(sample.attributes["references"]) for sample in found) == fact["captions"]
    for part, expected in fact["parts"].items():
        captions = [text for sample in found if sample.id.startswith(part) for text in sample.attributes["references"]]
        assert (len(captions), len(set(captions))) == (expected["captions"], expected["unique_captions_overall"])
    assert not any("formland" in sample.text(1) for sample in found)
    assert not KarpathyCaptions().annotated(path) & CaptionMap().annotated(path)


def test_text_files_of_captions_as_published(shared_data: Path) -> None:
    fact, path = facts(shared_data, "text"), shared_data / "text"
    with pytest.raises(Refused, match=r"data/no-picture-folder .*\n +found: +'1\.tif' is in none of"):
        list(KarpathyCaptions().rows(path / "ucm_captions_dataset.json"))
    rows = rows_of(KarpathyCaptions(pictures="."), path / "ucm_captions_dataset.json")
    expected = fact["ucm_captions_dataset.json"]
    assert len(rows) == expected["images"] and Counter(row.data["attributes"]["split"] for row in rows) == expected["splits"]
    assert sum(len(row.data["attributes"]["references"]) for row in rows) == expected["captions"]
    table = rows_of(CaptionCsv(pictures="."), path / "rs3_dump.csv")
    captions = [row.data["attributes"]["references"][0] for row in table]
    assert (len(table), len(set(captions))) == (fact["rs3_dump.csv"]["rows"], fact["rs3_dump.csv"]["unique_captions"])
    missing = [one for one in CaptionCsv(pictures=".").read(path / "rs3_dump.csv") if isinstance(one, Problem)]
    assert len(missing) == len(table) and {problem.code for problem in missing} == {"samples/missing-picture"}


def test_the_excerpt_of_capsfusion_as_published(shared_data: Path) -> None:
    fact = facts(shared_data, "text")["capsfusion_example_data.json"]
    path = shared_data / "text" / "capsfusion_example_data.json"
    assert Capsfusion().recognise(path) == (0.9, "capsfusion_example_data.json has laion_2b, laion_coco and capsfuion_official")
    found = samples_of(Capsfusion(), path)
    assert len(found) == fact["rows"] and {sample.origin.maker for sample in found} == {"model:capsfusion"}
    assert len({sample.attributes["laion_coco"] for sample in found}) == fact["unique_by_key"]["laion_coco"]
    assert found[0].text(0) == f"{found[0].attributes['laion_2b']}\n{found[0].attributes['laion_coco']}"
    with TemporaryDirectory() as folder:
        assert Capsfusion().write(found[:20], Path(folder)) == []
        again = samples_of(Capsfusion(), Path(folder))
    assert [replace(sample, origin=found[0].origin) for sample in again] == [replace(sample, origin=found[0].origin) for sample in found[:20]]


def test_addresses_are_local_files_by_a_rule(tmp_path: Path) -> None:
    put_pictures(tmp_path, "00000/000000000.jpg", "00000/000000001.jpg")
    table = pa.Table.from_pylist([{"image_url": f"http://x/{k}.jpg", "laion_2b": "a", "laion_coco": "b", "capsfusion": f"fused {k}"} for k in range(3)])
    pq.write_table(table, tmp_path / "rows.parquet")
    found = list(Capsfusion().read(tmp_path))
    assert isinstance(found[1], Sample) and found[1].text(1) == "fused 1" and found[1].attributes["url"] == "http://x/1.jpg"
    assert isinstance(found[2], Problem) and found[2].code == "samples/missing-picture" and "rows.parquet:row 2" in found[2].place
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(Refused, match=r"data/broken-parquet .*\n +found: +Parquet"):
        list(Capsfusion().rows(tmp_path / "rows.parquet"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Train_GCC-training.tsv", "a bus\thttp://x/a.jpg?s=1\na dog\thttp://x/b.jpg\n"),
        ("cc12m.tsv", "http://x/a.jpg?s=1\ta bus\nhttp://x/b.jpg\ta dog\n"),
        ("sbu.json", json.dumps({"image_urls": ["http://x/a.jpg?s=1", "http://x/b.jpg"], "captions": ["a bus", "a dog"], "user_ids": []})),
        ("SBU_urls.txt", "http://x/a.jpg?s=1\nhttp://x/b.jpg\n"),
    ],
)
def test_lists_of_captions_and_addresses(tmp_path: Path, name: str, text: str) -> None:
    put_pictures(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "SBU_captions.txt").write_text("a bus\na dog\n")
    (tmp_path / name).write_text(text)
    assert CaptionList().recognise(tmp_path / name) is not None
    found = samples_of(CaptionList(rule="{file}"), tmp_path / name)
    assert [(sample.id, sample.text(1), sample.attributes["url"]) for sample in found] == [
        ("a.jpg", "a bus", "http://x/a.jpg?s=1"),
        ("b.jpg", "a dog", "http://x/b.jpg"),
    ]
    with pytest.raises(Refused, match=r"data/read-only-format at CaptionList"):
        CaptionList().write(found, tmp_path / "out")


def test_lists_that_do_not_fit(tmp_path: Path) -> None:
    put_pictures(tmp_path, "a.jpg")
    (tmp_path / "SBU_captions.txt").write_text("a bus\n")
    (tmp_path / "SBU_urls.txt").write_text("http://x/a.jpg\nhttp://x/b.jpg\n")
    with pytest.raises(Refused, match=r"data/wrong-shape .*\n +found: +2 and 1 addresses and captions"):
        list(CaptionList(rule="{file}").rows(tmp_path / "SBU_urls.txt"))
    (tmp_path / "cc.tsv").write_text("a bus\thttp://x/a.jpg\nno address\n")
    assert "cc.tsv:2" in refused(CaptionList(rule="{file}"), tmp_path / "cc.tsv")
    (tmp_path / "cc.tsv").write_text("a bus\thttp://x/..\n")
    assert "data/path-escape" in refused(CaptionList(rule="{file}", pictures="."), tmp_path / "cc.tsv")


@pytest.mark.parametrize("rule", ["{row}.jpg", "{number:q}", "{", "{number.real.x}"])
def test_a_rule_that_cannot_be_filled_is_refused_at_once(rule: str) -> None:
    with pytest.raises(ValidationError, match="cannot be filled with number, shard, file and hash"):
        CaptionList(rule=rule)


def test_a_table_in_gb_18030_is_read_with_a_warning(tmp_path: Path) -> None:
    put_pictures(tmp_path, "airport_1.jpg")
    (tmp_path / "t.csv").write_bytes("Filename,Title\nairport_1.jpg,\u673a\u573a\nairport_1.jpg,\u98de\u673a\n".encode("gb18030"))
    warning, sample = CaptionCsv().read(tmp_path)
    assert isinstance(warning, Problem) and warning.severity == "warn" and warning.found == "byte 29 is 0xbb; the file was read as GB 18030"
    assert isinstance(sample, Sample) and sample.attributes == {"class": "airport", "references": ["\u673a\u573a", "\u98de\u673a"]}
    (tmp_path / "t.csv").write_bytes(b"image,text\nairport_1.jpg,\xff\xff\n")
    with pytest.raises(Refused, match="data/not-utf-8"):
        list(CaptionCsv().rows(tmp_path))


def test_tables_that_are_refused(tmp_path: Path) -> None:
    put_pictures(tmp_path, "1.jpg")
    for text, message in (
        ("img\ttext\n1.jpg\ta\tb\n", r"data/wrong-shape at .*t\.tsv:2\n +found: +3 fields"),
        ("img\ttext\tsplit\n1.jpg\ta\ttrain\n1.jpg\tb\ttest\n", r"data/split-conflict at .*t\.tsv:3\n +found: +\{'split': 'test'\} for '1\.jpg'"),
        ("img\ttext\n1.jpg\t \n", r"data/empty-caption at .*t\.tsv:2"),
    ):
        (tmp_path / "t.tsv").write_text(text)
        with pytest.raises(Refused, match=message):
            raise Refused([one for one in CaptionCsv().read(tmp_path) if isinstance(one, Problem)])
    (tmp_path / "t.tsv").write_text("a\tb\n")
    assert CaptionCsv().recognise(tmp_path) is None
    with pytest.raises(Refused, match=r"a header 'a\\tb'"):
        list(CaptionCsv().rows(tmp_path / "t.tsv"))


def test_pictures_without_captions_and_names_by_id(tmp_path: Path) -> None:
    put_pictures(tmp_path / "train_images", "k1.jpg", "k2.jpg")
    rows = [{"image_id": "k1", "caption_str": "stop", "set_name": "train"}, {"image_id": "k2", "set_name": "test"}]
    (tmp_path / "TextCaps.json").write_text(json.dumps({"data": [*rows, {**rows[0], "caption_str": "a sign"}]}))
    first, second = samples_of(Textcaps(), tmp_path)
    assert first.attributes == {"split": "train", "references": ["stop", "a sign"]} and second.turns == ()
    (tmp_path / "TextCaps.json").write_text(json.dumps({"data": [{"image_id": 5, "caption_str": "a"}]}))
    assert "data/wrong-shape at" in refused(Textcaps(), tmp_path)


def test_pixmo_keeps_what_was_said(tmp_path: Path) -> None:
    put_pictures(tmp_path, "00000/000000000.jpg")
    rows = [{"image_url": "https://x/1.jpg", "caption": "A quay.", "transcripts": ["um, a quay"]}]
    (tmp_path / "cap.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**rows[0], "transcripts": "um"}]))
    sample, problem = PixmoCaptions().read(tmp_path)
    assert isinstance(sample, Sample) and sample.attributes["transcripts"] == ["um, a quay"] and sample.origin.maker == "model:pixmo"
    assert isinstance(problem, Problem) and problem.place.endswith("cap.jsonl:2")


CAPTIONS = st.lists(st.text(st.sampled_from('ab ",\n#\t\u6e2f'), min_size=1, max_size=6).filter(str.strip), min_size=1, max_size=4)
WRITTEN: list[tuple[CaptionReader, dict[str, Any]]] = [
    (KarpathyCaptions(), {"class": "pond"}),
    (CaptionMap(), {"class": "pond"}),
    (NwpuCaptions(), {"class": "deep pond"}),
    (CocoKarpathyFlat(), {}),
    (CaptionCsv(), {"class": "pond"}),
    (FlickrCaptions(), {"language": "en"}),
    (Textcaps(), {}),
]


@pytest.mark.parametrize(("reader", "more"), WRITTEN, ids=[type(reader).__name__ for reader, _ in WRITTEN])
@given(references=CAPTIONS, split=st.sampled_from(["train", "val", "test", None]))
@settings(max_examples=12, deadline=None)
def test_captions_survive_writing(reader: CaptionReader, more: dict[str, Any], references: list[str], split: str | None) -> None:
    name = "pond_1.jpg"
    identity = f"{more['class']}/{name}" if isinstance(reader, NwpuCaptions) else name
    attributes = {**({"split": split} if split else {}), **more, "references": references}
    sample = Sample(id=identity, pictures=(describe(encoded(1), name, ""),), turns=caption_turns(references), attributes=attributes, origin=Origin(source=""))
    with TemporaryDirectory() as folder:
        assert reader.write([sample], Path(folder)) == []
        assert reader.recognise(Path(folder)) is not None
        (again,) = samples_of(reader, Path(folder))
    assert (again.id, again.turns, again.attributes, again.pictures) == (sample.id, sample.turns, sample.attributes, sample.pictures)


@given(st.lists(st.text(st.sampled_from("ab ,\u6e2f\u53e3"), min_size=1, max_size=5).filter(lambda text: text == text.strip() != ""), min_size=1, max_size=3))
@settings(max_examples=12, deadline=None)
def test_both_languages_survive_writing(references: list[str]) -> None:
    picture = describe(encoded(2), "9_x.jpg", "")
    both = [
        Sample(
            id="9_x.jpg" + ("#zh" if language == "zh" else ""),
            pictures=(picture,),
            turns=caption_turns(references),
            attributes={"split": "val", "language": language, "references": references},
            origin=Origin(source=""),
        )
        for language in ("en", "zh")
    ]
    with TemporaryDirectory() as folder:
        assert FlickrCaptions().write(both, Path(folder)) == []
        assert [replace(sample, origin=Origin(source="")) for sample in samples_of(FlickrCaptions(), Path(folder))] == both


def test_losses_of_captions_are_named(tmp_path: Path) -> None:
    picture = describe(encoded(1), "1.jpg", "")
    question = Turn(role="user", items=(Show(), Text(text="Describe.")))
    answer = Turn(role="assistant", items=(Text(text="a"),), alternatives=((Text(text="b"),),), weight=0.5)
    known = (Region(label="ship", shape=Box(x0=0, y0=0, x1=1, y1=1)),)
    full = Sample(id="x", pictures=(picture,), turns=(question, answer), annotations=known, attributes={"kind": "k"}, origin=Origin(source="s", licence="CC0"))
    twice = replace(full, turns=(question, answer, question, answer))
    problems = KarpathyCaptions().write([full, twice, replace(full, pictures=())], tmp_path)
    found = {problem.found.partition(":")[0]: problem.severity for problem in problems}
    warned = dict.fromkeys(("annotations", "weights", "origin", "attributes", "words of the user", "ids"), "warn")
    assert found == {**warned, "more than captions of one picture": "refuse"}
    (again,) = samples_of(KarpathyCaptions(), tmp_path)
    assert again.attributes == {"references": ["a", "b"]}
    assert [problem.found for problem in NwpuCaptions().write([full], tmp_path / "n")] == ["no class that can name a folder: 1 sample not written"]
    spanish = replace(full, attributes={"language": "es"})
    assert [problem.found for problem in FlickrCaptions().write([spanish], tmp_path / "f")] == ["a language other than en and zh: 1 sample not written"]


def test_folders_in_ids_stay_inside(tmp_path: Path) -> None:
    sample = Sample(id="../../1.jpg", pictures=(describe(encoded(1), "1.jpg", ""),), turns=caption_turns(["a"]), origin=Origin(source=""))
    CocoKarpathyFlat().write([sample], tmp_path / "out")
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*.jpg"))] == ["out/images/1.jpg"]
